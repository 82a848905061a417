//! Join tokens, the token of file mode: one 0600 file per pod, kept over restarts. The content is
//! `<ns>/<pod>/<uid>.<64 hexadecimal digits>`.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use futures::future::BoxFuture;
use zeroize::Zeroizing;

use super::{
    Principal,
    ca::random_bytes,
    token::{TokenError, Tokens},
};
use crate::state_dir::{StateDir, StateDirError};

/// The service account of every pod in file mode.
pub const SERVICE_ACCOUNT: &str = "default";
/// Size of a token's secret, in bytes.
const SECRET_BYTES: usize = 32;

/// The join tokens of the pods that exist now.
#[derive(Debug)]
pub struct JoinTokens {
    state: Arc<StateDir>,
    by_pod: RwLock<HashMap<(String, String), Held>>,
}

struct Held {
    uid: String,
    token: Zeroizing<String>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

/// A token that could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The system has no randomness to give.
    #[error("no randomness for a join token")]
    Random,
}

impl JoinTokens {
    /// Keeps tokens in `state`. No pod has one yet.
    pub fn new(state: Arc<StateDir>) -> Self {
        Self {
            state,
            by_pod: RwLock::default(),
        }
    }

    /// The file of a pod's token, under the state directory. A namespace has no dot, so the name is unambiguous.
    pub fn file(namespace: &str, pod: &str) -> PathBuf {
        PathBuf::from("join").join(format!("{namespace}.{pod}.token"))
    }

    /// Makes the pods' tokens where they are missing or of another uid. Pods that are not listed have none any more,
    /// though their files stay for the day they come back.
    pub fn keep<'a>(
        &self,
        pods: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>,
    ) -> Result<(), JoinError> {
        let mut kept = HashMap::new();
        for (namespace, pod, uid) in pods {
            let key = (namespace.to_owned(), pod.to_owned());
            let known = self
                .by_pod
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&key)
                .filter(|held| held.uid == uid)
                .map(|held| held.token.clone());
            let token = match known {
                Some(token) => token,
                None => self.load_or_make(namespace, pod, uid)?,
            };
            kept.insert(
                key,
                Held {
                    uid: uid.to_owned(),
                    token,
                },
            );
        }
        *self.by_pod.write().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(())
    }

    fn load_or_make(
        &self,
        namespace: &str,
        pod: &str,
        uid: &str,
    ) -> Result<Zeroizing<String>, JoinError> {
        let file = Self::file(namespace, pod);
        let head = format!("{namespace}/{pod}/{uid}.");
        if let Some(content) = self.state.read_secret(&file)?
            && let Ok(text) = std::str::from_utf8(&content)
            && let Some(secret) = text.trim_end().strip_prefix(&head)
            && secret.len() == SECRET_BYTES * 2
            && secret.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return Ok(Zeroizing::new(text.trim_end().to_owned()));
        }
        let secret = Zeroizing::new(random_bytes(SECRET_BYTES).map_err(|_| JoinError::Random)?);
        let secret = Zeroizing::new(sluice_snapshot::hash::hex(&secret));
        let token = Zeroizing::new(format!("{head}{}", *secret));
        self.state.write_secret(&file, token.as_bytes())?;
        Ok(token)
    }

    fn look_up(&self, token: &str) -> Option<Principal> {
        let token = token.trim_end();
        let (named, _) = token.rsplit_once('.')?;
        let mut parts = named.splitn(3, '/');
        let (namespace, pod) = (parts.next()?, parts.next()?);
        let by_pod = self.by_pod.read().unwrap_or_else(PoisonError::into_inner);
        let held = by_pod.get(&(namespace.to_owned(), pod.to_owned()))?;
        // The whole token is compared, so that the uid it names is proven too.
        verify_slices_are_equal(held.token.as_bytes(), token.as_bytes()).ok()?;
        Some(Principal {
            namespace: namespace.to_owned(),
            service_account: SERVICE_ACCOUNT.to_owned(),
            pod: pod.to_owned(),
            uid: held.uid.clone(),
        })
    }
}

impl Tokens for JoinTokens {
    fn principal<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Principal, TokenError>> {
        let found = self.look_up(token).ok_or_else(|| {
            TokenError::Refused(
                "it is no join token of a pod that an EndpointSlice names in a targetRef".into(),
            )
        });
        Box::pin(async move { found })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn state() -> (tempfile::TempDir, Arc<StateDir>) {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(&dir.path().join("state")).expect("opens");
        (dir, Arc::new(state))
    }

    fn read(state: &StateDir, pod: &str) -> String {
        let content = state
            .read_secret(&JoinTokens::file("shop", pod))
            .expect("reads")
            .expect("exists");
        String::from_utf8(content.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn a_token_is_its_pods_and_survives_a_restart() {
        let (_dir, state) = state();
        let tokens = JoinTokens::new(state.clone());
        tokens
            .keep([("shop", "orders-0", "u0"), ("shop", "orders-1", "u1")])
            .expect("kept");
        let (first, second) = (read(&state, "orders-0"), read(&state, "orders-1"));
        assert_ne!(first, second);
        let mode = std::fs::metadata(state.path(&JoinTokens::file("shop", "orders-0")))
            .expect("exists")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        let restarted = JoinTokens::new(state.clone());
        restarted.keep([("shop", "orders-0", "u0")]).expect("kept");
        assert_eq!(read(&state, "orders-0"), first);
        let principal = restarted.principal(&first).await.expect("accepted");
        assert_eq!(
            (principal.pod.as_str(), principal.uid.as_str()),
            ("orders-0", "u0")
        );
        restarted
            .principal(&second)
            .await
            .expect_err("orders-1 is gone");
    }

    #[tokio::test]
    async fn another_secret_pod_or_uid_is_refused() {
        let (_dir, state) = state();
        let tokens = JoinTokens::new(state.clone());
        tokens
            .keep([("shop", "orders-0", "u0"), ("shop", "orders-1", "u1")])
            .expect("kept");
        let token = read(&state, "orders-0");
        let mut guessed = token.clone();
        guessed.replace_range(
            token.len() - 1..,
            if token.ends_with('0') { "1" } else { "0" },
        );
        for forged in [
            guessed,
            token.replace("orders-0", "orders-1"),
            token.replace("u0", "u1"),
            token[..token.len() - 1].to_owned(),
            String::new(),
        ] {
            tokens.principal(&forged).await.expect_err("refused");
        }
        tokens
            .keep([("shop", "orders-0", "another")])
            .expect("kept");
        tokens
            .principal(&token)
            .await
            .expect_err("a recreated pod has a new token");
    }
}
