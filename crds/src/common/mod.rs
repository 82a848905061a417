//! Value types that more than one resource uses. Nothing here knows a resource.

mod choice;
mod duration;
mod percent;
mod quantity;
mod secrets;
mod service;
mod status;
mod text;
pub(crate) mod union;

pub use duration::{Duration, DurationError};
pub use percent::{Percent, PercentError};
pub use quantity::{Quantity, QuantityError};
pub(crate) use secrets::ONE_SECRET_SOURCE;
pub use secrets::{SecretKeys, SecretKeysError, SecretRef, SecretSelector};
pub use service::{HttpMethod, ParentKind, ServiceKind, ServiceRef, StoreRef};
pub use status::{Condition, LiveStatus};
pub use text::{
    ApiVersion, AttributeName, ClaimPath, CookieName, CronText, DnsLabel, FreeText, GroupName,
    HeaderName, HeaderValue, Hostname, JwksText, KindName, LabelValue, ObjectName, PathText,
    QueryName, QueryValue, SignatureComponent, SpiffeId, StoreAddress, TimeZoneName, TrustDomain,
    Url,
};
pub use union::WrongMember;

pub(crate) use choice::choice;
pub(crate) use union::union;
