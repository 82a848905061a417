//! The page of labels and annotations: what the injector reads, from its own list, and what stands on Secrets.

use sluice_operator::webhook::inject::ANNOTATIONS;

const HEAD: &str = "\
# Labels and annotations

What Sluice reads on objects that are not its own.

## Namespaces and Pods

| label | on | says |
|---|---|---|
| `sluice.dev/injection: enabled` | Namespace | new pods get a sidecar |
| `sluice.dev/inject: \"false\"` | Pod (in a workload: its template) | this pod gets none |

A label decides whether, annotations on the Pod (in a workload: on its template) say how. What is not understood refuses the
pod and names the annotation, its value and what to write: a misspelt wish is not ignored. [Injection](../injection.md)
explains what they do.

| annotation | value | says |
|---|---|---|
";

const SECRETS: &str = "\
## Secrets

A Secret is read only if its label names a purpose and its type is that purpose. A Secret's type cannot be changed, so
neither can what it is for.

| label `sluice.dev/use` | type | an entry is | value |
|---|---|---|---|
| `api-keys` | `sluice.dev/api-keys` | a key id, which may be logged | the key, at least 16 bytes |
| `signature-keys` | `sluice.dev/signature-keys` | the `keyid` of a signature | the raw HMAC key, at least 32 bytes |
| `jwt-keys` | `sluice.dev/jwt-keys` | the `kid` of a token | the HS256 key |
| `redis-auth` | `sluice.dev/redis-auth` | `username` or `password` | the credential of a store |

One Secret is one consumer. Rotate a key by two entries at a time; revoke it by deleting its entry. If two Secrets hold
the same key id, the older one counts and the other is reported.

| annotation | says |
|---|---|
| `sluice.dev/subject` | the subject of the identity; `<namespace>/<name>` of the Secret without it |
| `attributes.sluice.dev/<name>` | an attribute of the identity, which limits may count by |
";

const WRITTEN: &str = "\
## The injecting webhook

| annotation | on | says |
|---|---|---|
| `sluice.dev/sidecar-image` | MutatingWebhookConfiguration `sluice-operator` | written by the operator: the image that new pods get |

";

/// The page.
pub(crate) fn page() -> String {
    let rows: String = ANNOTATIONS
        .iter()
        .map(|it| format!("| `{}` | {} | {} |\n", it.name, it.values, it.says))
        .collect();
    format!("{HEAD}{rows}\n{WRITTEN}{SECRETS}")
}
