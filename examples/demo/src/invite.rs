//! What a reader can try once the table is printed: commands that can be pasted as they are.

use anyhow::Result;

use crate::{
    caller::Ask,
    credentials::Wallet,
    ground::Ground,
    manifests::Manifests,
    platform::{EDGE, Platform},
};

/// How long the printed token is good for, in seconds.
const TOKEN_LIFE: i64 = 3600;

/// Prints commands, addresses and what may be edited.
pub(crate) fn print(platform: &mut Platform, ground: &Ground) -> Result<()> {
    let base = Manifests::read(&ground.base)?;
    let wallet = Wallet::new(&base);
    let orders = platform.address("orders-0")?;
    let inventory = platform.address("inventory-0")?;
    let get = |target| Ask::get(orders, target);

    println!("\nEverything is up. To try it yourself:");
    let private = "/v1/tenants/acme/orders/1?cache=max-age%3D60";
    command("an API key", &wallet.with_key(get("/v1/catalog"), "acme")?);
    command(
        "a JWT",
        &wallet.with_token(get("/v1/catalog"), "acme", TOKEN_LIFE)?,
    );
    command(
        "a signature: the second time its nonce is refused, after 5 minutes its age",
        &wallet.signed(get("/v1/catalog"), "acme")?,
    );
    command(
        "a shard, cached for acme: ask twice",
        &wallet.with_key(get(private), "acme")?,
    );
    command(
        "a redirect",
        &wallet.with_key(Ask::get(inventory, "/stock"), "acme")?,
    );
    let edge = platform.address(EDGE)?;
    command(
        "both Services by one door",
        &wallet.with_key(Ask::get(edge, "/v1/stock"), "acme")?,
    );
    let often = wallet.with_key(get("/v1/catalog"), "initech")?;
    println!("  # over the limit");
    println!(
        "  for i in $(seq 30); do {} -s -o /dev/null -w '%{{http_code}} '; done; echo",
        curl(&often)
    );

    println!(
        "\nEdit {} while it runs: the next answer follows.",
        ground.base.display()
    );
    println!(
        "  operator    metrics and health on http://{}",
        ground.health
    );
    for pod in &platform.pods {
        if let Some(sidecar) = &pod.sidecar {
            println!(
                "  {:<11} http://{}   config http://{}/config   metrics http://{}/metrics",
                pod.name, pod.address, sidecar.admin, sidecar.metrics
            );
        }
    }
    println!("  logs        {}", ground.path("logs").display());
    println!("\nCtrl-C ends it all.");
    Ok(())
}

fn command(what: &str, ask: &Ask) {
    println!("  # {what}");
    println!("  {} -i", curl(ask));
}

/// The request as a shell command. Nothing in it can hold a single quote: targets and credentials are ours.
fn curl(ask: &Ask) -> String {
    let headers: String = ask
        .headers
        .iter()
        .map(|(name, value)| format!(" -H '{name}: {value}'"))
        .collect();
    format!("curl{headers} '{}'", ask.url())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_every_header_and_the_url() {
        let ask =
            Ask::get(([127, 0, 10, 1], 8080).into(), "/v1/catalog?a=b").header("x-api-key", "k");
        assert_eq!(
            curl(&ask),
            "curl -H 'x-api-key: k' 'http://127.0.10.1:8080/v1/catalog?a=b'"
        );
    }
}
