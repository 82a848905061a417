//! What the figures were taken on: enough to judge them, and neither names nor paths of the machine.

use std::{fmt, fs, time::SystemTime};

/// The machine and the moment.
#[derive(Debug, Clone)]
pub struct Machine {
    /// When the run began, in UTC.
    pub date: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// The processor's name, where the kernel tells it.
    pub processor: Option<String>,
    /// Name and release of the kernel.
    pub kernel: String,
    /// Memory in GiB, where the kernel tells it.
    pub memory_gib: Option<u64>,
    /// The load average of the minute before: what else ran.
    pub load: Option<String>,
}

impl Machine {
    /// Looks.
    pub fn look() -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let field = |text: &str, name: &str| -> Option<String> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let uname = rustix::system::uname();
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib = memory.and_then(|total| total.split(' ').next()?.parse::<u64>().ok());
        Self {
            date: httpdate::fmt_http_date(SystemTime::now()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            kernel: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                uname.release().to_string_lossy()
            ),
            memory_gib: kib.map(|kib| (kib + (1 << 19)) >> 20),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .filter(|load| !load.is_empty())
                .map(str::to_owned),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            date,
            cores,
            processor,
            kernel,
            memory_gib,
            load,
        } = self;
        write!(f, "{date}; {cores} cores")?;
        if let Some(processor) = processor {
            write!(f, " ({processor})")?;
        }
        if let Some(gib) = memory_gib {
            write!(f, ", {gib} GiB")?;
        }
        write!(f, ", {kernel}")?;
        match load {
            Some(load) => write!(f, "; load average {load} as the run began"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_kernel_and_cores_but_no_host() {
        let line = Machine::look().to_string();
        assert!(
            line.contains("Linux") && line.contains("cores") && line.contains("GMT"),
            "{line}"
        );
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        assert!(host.is_empty() || !line.contains(&host), "{line}");
    }
}
