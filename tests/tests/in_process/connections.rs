//! The bounds of connections over real sockets: slow clients, floods, too many, too old, the descriptor limit, the PROXY
//! protocol. Each runs beside load on the same sidecar, of two data threads, which must notice nothing.

mod floods;
mod limits;
mod proxied;
mod raw;
mod slow;
mod soak;

use anyhow::{Result, ensure};
use sluice_tests::{Load, Sidecar, With, World, get, product::SidecarOptions};

use crate::place::{Place, Plan, route};

/// A pod whose route `open` asks for nothing, and whose sidecar was started with these arguments.
async fn open_pod<'w>(world: &'w World, args: &[&str]) -> Result<Place<'w>> {
    let mut plan = Plan::new(world)?;
    plan.group("api")?;
    plan.put("open", &route("open", ""))?;
    let mut place = plan.start().await?;
    place.live("ApiRoute", "open").await?;
    let with =
        |options: SidecarOptions| args.iter().fold(options, |options, arg| options.arg(*arg));
    place.change_sidecar(0, with).await?;
    Ok(place)
}

/// What others do meanwhile: 500 requests a second, of which every one must be answered 200.
fn others(sidecar: &Sidecar) -> Load {
    Load::against(sidecar.address)
        .per_second(500)
        .request(|_| get("/").with("host", "open.example"))
}

/// How many connections the sidecar ended for this reason.
async fn closed_for(sidecar: &Sidecar, reason: &str) -> Result<u64> {
    let scrape = sidecar.scrape().await?;
    let name = format!("sluice_connections_closed_total{{reason=\"{reason}\"}} ");
    let line = scrape.lines().find_map(|line| line.strip_prefix(&name));
    let count = line.and_then(|count| count.parse().ok());
    ensure!(count.is_some(), "no {name} in {scrape}");
    Ok(count.unwrap_or_default())
}
