//! The second front end: the Gateway API's objects, resolved into the same units as ours. Each kind of route has a module;
//! what routes have in common, and what listeners are, have theirs. Reasons are the Gateway API's words wherever it has
//! one. Nothing here reads the world but through the view.

pub(crate) mod attach;
pub(crate) mod backend_tls;
mod backends;
pub(crate) mod class;
mod filters;
pub(crate) mod gateway;
mod grants;
pub(crate) mod grpc_route;
pub(crate) mod http_route;
mod listener_tls;
pub(crate) mod listeners;
mod matches;
pub(crate) mod policies;
mod route;
mod shadow;
pub(crate) mod stream_route;
pub(crate) mod table;
