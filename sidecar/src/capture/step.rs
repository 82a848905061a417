//! The init step: redirects the pod's inbound TCP connections to the sidecar, and makes sure that they are. It runs as
//! uid 0 with NET_ADMIN and no other right, and again whenever the pod's sandbox is made anew.

use std::io::{self, Write};

use rustix::io::Errno;

use super::{
    OWN_PORTS,
    netlink::{self, Socket},
    ruleset::{self, Difference, Ruleset},
};

/// Ports that may be named: a set of them fits one netlink attribute many times over.
const MAX_EXCLUDED: usize = 1_000;

/// What the step is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where connections are redirected to.
    pub port: u16,
    /// Ports that are left alone, besides the sidecar's own.
    pub exclude: Vec<u16>,
    /// What to do.
    pub action: Action,
}

/// What the step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Puts the rules in place of any earlier ones.
    Redirect,
    /// Prints the rules in nft syntax.
    Print,
    /// Removes the rules.
    CleanUp,
}

/// Why connections are not redirected.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// More ports than anyone lists.
    #[error("{0} ports are excluded, at most {MAX_EXCLUDED} may be; is the mode NamedPorts meant?")]
    TooMany(usize),
    /// The container lacks the right.
    #[error(
        "changing the pod's network rules needs the capability NET_ADMIN and uid 0 (an added capability reaches no \
         other uid); where the namespace forbids that, annotate the pod with sluice.dev/capture: NamedPorts, the mode \
         without privilege"
    )]
    NotAllowed,
    /// The kernel lacks something.
    #[error(
        "this kernel cannot redirect ports ({what}: {errno}); needed are nf_tables with nft_chain_nat and nft_redir, \
         Linux 5.2 or later; or annotate the pod with sluice.dev/capture: NamedPorts, the mode without rules"
    )]
    NotSupported {
        /// What was refused.
        what: &'static str,
        /// Why.
        errno: Errno,
    },
    /// Anything else that the kernel says.
    #[error(transparent)]
    Netlink(netlink::Error),
    /// The rules were taken and are not there.
    #[error(
        "the kernel does not have {} as written; does another program change the table `sluice`?",
        .0.name()
    )]
    NotInForce(Difference),
    /// The table was removed and is there.
    #[error("the table `sluice` was removed and is there again; does another program write it?")]
    NotRemoved,
    /// Nowhere to print to.
    #[error("cannot print: {0}")]
    Print(io::Error),
}

impl From<netlink::Error> for StepError {
    fn from(error: netlink::Error) -> Self {
        match error {
            netlink::Error::Refused { errno, .. } if errno == Errno::PERM => Self::NotAllowed,
            netlink::Error::Refused { what, errno }
                if [Errno::NOENT, Errno::OPNOTSUPP, Errno::AFNOSUPPORT].contains(&errno) =>
            {
                Self::NotSupported { what, errno }
            }
            netlink::Error::Socket(error)
                if error.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()) =>
            {
                Self::NotSupported {
                    what: "netlink",
                    errno: Errno::PROTONOSUPPORT,
                }
            }
            other => Self::Netlink(other),
        }
    }
}

/// Does the step; `out` gets the rules, or one line that says what is so now.
pub fn run(settings: &Settings, mut out: impl Write) -> Result<(), StepError> {
    let Settings {
        port,
        exclude,
        action,
    } = settings;
    if exclude.len() > MAX_EXCLUDED {
        return Err(StepError::TooMany(exclude.len()));
    }
    let rules = Ruleset::new(*port, OWN_PORTS.into_iter().chain(exclude.iter().copied()));
    let told = match action {
        Action::Print => rules.to_string(),
        Action::Redirect => {
            let mut socket = Socket::open()?;
            socket.commit(&rules.transaction())?;
            if let Some(difference) = rules.differs(&mut socket)? {
                return Err(StepError::NotInForce(difference));
            }
            let ports: Vec<_> = rules.excluded().map(|port| port.to_string()).collect();
            format!(
                "inbound TCP connections of this pod are redirected to port {port}, but for the ports {}\n",
                ports.join(", ")
            )
        }
        Action::CleanUp => {
            let mut socket = Socket::open()?;
            socket.commit(&ruleset::removal())?;
            if ruleset::is_there(&mut socket)? {
                return Err(StepError::NotRemoved);
            }
            "nothing is redirected any more\n".to_owned()
        }
    };
    out.write_all(told.as_bytes()).map_err(StepError::Print)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_needs_no_right_and_names_all_ports() {
        let settings = Settings {
            port: 15_106,
            exclude: vec![9090],
            action: Action::Print,
        };
        let mut out = Vec::new();
        run(&settings, &mut out).expect("prints");
        let text = String::from_utf8(out).expect("text");
        assert!(
            text.contains("elements = { 9090, 15000, 15006, 15008, 15020, 15106 }"),
            "{text}"
        );
    }

    #[test]
    fn the_ports_that_may_be_excluded_are_bounded() {
        let settings = |count: u16| Settings {
            port: 15_006,
            exclude: (1..=count).collect(),
            action: Action::Print,
        };
        assert!(run(&settings(1_000), Vec::new()).is_ok());
        let refused = run(&settings(1_001), Vec::new());
        assert!(matches!(refused, Err(StepError::TooMany(1_001))));
    }

    #[test]
    fn a_missing_right_names_the_annotation() {
        let refused = |errno| {
            StepError::from(netlink::Error::Refused {
                what: "the chain",
                errno,
            })
            .to_string()
        };
        let told = refused(Errno::PERM);
        assert!(
            told.contains("NET_ADMIN") && told.contains("sluice.dev/capture: NamedPorts"),
            "{told}"
        );
        assert!(refused(Errno::NOENT).contains("nft_chain_nat"));
        assert_eq!(
            refused(Errno::BUSY),
            format!("the kernel refuses the chain: {}", Errno::BUSY)
        );
    }
}
