//! The routing phase on a table with many routes.

use anyhow::Result;
use sluice_pipeline::{facts::StaticFacts, route, target};

use super::{Bench, Size};
use crate::world::{
    self,
    catalog::{self, Catalog, PORT},
};

pub(super) fn benches(size: Size) -> Result<Vec<Bench>> {
    let routes = size.routes;
    Ok(vec![
        bench(
            routes,
            "route match, prefix",
            "/v1/orders/17?view=full",
            "read",
        )?,
        bench(
            routes,
            "route match, regular expression",
            "/v1/tenants/acme/orders",
            "tenant",
        )?,
    ])
}

fn bench(routes: usize, name: &'static str, target: &str, rule: &'static str) -> Result<Bench> {
    let program = world::program(&Catalog { routes, groups: 1 }.documents())?;
    let requests: Vec<(StaticFacts, String)> = (0..routes)
        .map(|route| {
            let host = catalog::hostname_of(route);
            (
                StaticFacts::new("GET", &host, target).with("host", &host),
                catalog::name_of(route),
            )
        })
        .collect();
    let mut turn = 0;
    let find = move || {
        // A stride that shares no factor with the number of routes, so that neighbours are not asked in turn.
        turn = (turn + 7) % requests.len();
        let (facts, route) = &requests[turn];
        let (Some(table), Ok(target)) = (program.table(PORT), target::normalise(facts)) else {
            return false;
        };
        route::find(table, facts, &target)
            .is_ok_and(|matched| matched.rule.name == rule && matched.route.object.name == *route)
    };
    Ok(Bench::new(
        name,
        format!("target normalised, then one of {routes} routes with 3 rules each found"),
        find,
    ))
}
