//! Authorities that a reference names: ConfigMaps with `ca.crt`.

use sluice_crds::gateway_api::ObjectReference;
use sluice_snapshot::{ConfigError, ConfigReason};

use crate::view::View;

/// How a certificate begins in PEM (RFC 7468).
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// The end of it.
const CERTIFICATE_END: &str = "-----END CERTIFICATE-----";
/// Bytes of authorities that one unit carries.
const MAX_BYTES: usize = 256 * 1024;

/// Whether a reference is of the kind that holds authorities.
pub(crate) fn is_config_map(reference: &ObjectReference) -> bool {
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    reference.is_core("ConfigMap", "ConfigMap", namespace)
}

/// The certificates of all of them, as PEM. One that is missing breaks the whole: whom to trust is not to be guessed.
/// `forbidden` says of namespace and name why that ConfigMap may not be named, if so.
pub(crate) fn of(
    view: &View<'_>,
    namespace: &str,
    references: &[ObjectReference],
    forbidden: impl Fn(&str, &str) -> Option<String>,
) -> Result<String, ConfigError> {
    let mut all = String::new();
    for reference in references {
        let unusable = |what: String| ConfigError::new(ConfigReason::ReferenceNotFound, what);
        if !is_config_map(reference) {
            return Err(unusable("authorities are ConfigMaps".into()));
        }
        let namespace = reference.namespace.as_deref().unwrap_or(namespace);
        let name = &reference.name;
        if let Some(why) = forbidden(namespace, name) {
            return Err(unusable(why));
        }
        let missing = |what: &str| unusable(format!("ConfigMap {namespace}/{name} {what}"));
        let map = view
            .authorities(namespace, name)
            .ok_or_else(|| missing("does not exist"))?;
        let pem = map.pem.as_deref().ok_or_else(|| missing("has no ca.crt"))?;
        let certificates = certificates(pem);
        if certificates.is_empty() {
            return Err(missing("has no certificate in its ca.crt"));
        }
        all.push_str(&certificates);
    }
    if all.is_empty() {
        let what = "no authorities are named";
        return Err(ConfigError::new(ConfigReason::Invalid, what));
    }
    if all.len() > MAX_BYTES {
        let what = format!("the authorities take {} bytes of {MAX_BYTES}", all.len());
        return Err(ConfigError::new(ConfigReason::TooLarge, what));
    }
    Ok(all)
}

/// The certificates of a text and nothing else of it: a key that lies beside them must not travel.
fn certificates(pem: &str) -> String {
    let mut found = String::new();
    let mut rest = pem;
    while let Some(start) = rest.find(CERTIFICATE) {
        let Some(length) = rest[start..].find(CERTIFICATE_END) else {
            break;
        };
        let end = start + length + CERTIFICATE_END.len();
        found.push_str(&rest[start..end]);
        found.push('\n');
        rest = &rest[end..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_certificates_are_taken() {
        let one = format!("{CERTIFICATE}\nAAAA\n{CERTIFICATE_END}");
        let text = format!(
            "# root\n{one}\n-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n{one}\n{CERTIFICATE}\nBB"
        );
        assert_eq!(certificates(&text), format!("{one}\n{one}\n"));
        assert_eq!(certificates(CERTIFICATE_END), "");
    }
}
