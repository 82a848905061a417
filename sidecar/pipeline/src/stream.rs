//! Where the bytes of a connection go that is not HTTP: TLSRoute and TCPRoute of the Gateway API.

use std::sync::Arc;

use crate::{
    Decider, Reject, RejectReason,
    dispatch::weighted,
    program::{Backend, ServerNames, StreamRoute, Target},
    route::misconfigured,
};

/// What a connection belongs to, and where it goes.
#[derive(Debug)]
pub struct Chosen<'p> {
    /// Its route.
    pub route: &'p Arc<StreamRoute>,
    /// Where to.
    pub backend: &'p Arc<Backend>,
}

/// Chooses. `server_name` is in lower case, none where the client gave none or none can be given; `random` decides among
/// weights.
pub fn choose<'p>(
    names: &'p ServerNames,
    server_name: Option<&str>,
    random: u32,
) -> Result<Chosen<'p>, Reject> {
    let route = names
        .route(server_name.unwrap_or_default())
        .ok_or_else(|| Reject::new(RejectReason::NoRoute))?;
    let decider = || Decider {
        object: Some(route.object.clone()),
        part: None,
    };
    if let Some(error) = &route.broken {
        return Err(misconfigured(error, decider()));
    }
    let target = weighted(&route.targets, route.total, random).ok_or_else(|| {
        let reject = Reject::new(RejectReason::NoEndpoint).by(decider());
        reject.detail("every weight is zero")
    })?;
    match &target.target {
        Ok(Target::Backend(backend)) => Ok(Chosen { route, backend }),
        Err(error) => Err(misconfigured(error, decider())),
        // `compile_unit` admits neither.
        Ok(Target::App | Target::Shards(_)) => {
            Err(Reject::new(RejectReason::Internal).by(decider()))
        }
    }
}
