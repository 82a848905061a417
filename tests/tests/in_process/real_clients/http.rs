//! Clients of HTTP/1.1 and HTTP/2.

use super::*;
use crate::place::secret;
use sluice_tests::isolated;

const KEY: &str = "an-api-key-of-acme-0123456789";
/// `/closed` asks for a key.
const ROUTE: &str = "  auth:
    providers: [{name: keys, type: APIKey, apiKey: {secretRef: {name: acme}}}]
  rules:
  - name: closed
    matches: [{path: {type: PathPrefix, value: /closed}}]
    auth: {anyOf: [{allOf: [keys]}]}
  - name: all
    auth: {anonymous: Allow}
";

#[test]
fn clients_of_every_house_are_served() {
    isolated!(async |world| {
        let plan = Plan::new(world)?;
        plan.put("secret", &secret("acme", "api-keys", "acme-1", KEY))?;
        let web = planned(&plan, world, "web", ROUTE, "http")?;
        let sockets = planned(&plan, world, "sockets", OPEN, "http")?;
        let place = plan.start().await?;
        let web = front(world, &place, "web", web, |address| {
            let mut command = script("node", "app.mjs");
            command.arg(address.to_string());
            Ok(command)
        })
        .await?;
        let sockets = front(world, &place, "sockets", sockets, super::websocket::server).await?;
        let (first, second) = (web[0].1.address, web[1].1.address);

        curl(world, first).await?;
        load(world, second).await?;

        let (out, _) = run(
            world,
            "python",
            with(python("requests.py"), &[first.to_string()]),
        )
        .await?;
        let said = json(&out)?;
        ensure!(
            said["statuses"] == serde_json::json!([200, 200, 200, 200]),
            "{said}"
        );
        ensure!(said["sockets"] == 1 && said["head"] == "", "{said}");
        ensure!(
            said["uploaded"] == "PUT 50000" && said["deleted"] == "DELETE 0",
            "{said}"
        );

        let addresses = [second.to_string(), sockets[0].1.address.to_string()];
        let (out, _) = run(
            world,
            "node",
            with(script("node", "requests.mjs"), &addresses),
        )
        .await?;
        let said = json(&out)?;
        ensure!(
            said["statuses"] == serde_json::json!([200, 200, 200]),
            "{said}"
        );
        ensure!(said["connections"] == 1 && said["head"] == "", "{said}");
        ensure!(
            said["uploaded"] == "POST 50000" && said["streams"] == 20,
            "{said}"
        );
        ensure!(
            said["websocket"] == serde_json::json!({"accepted": true, "said": "hello"}),
            "{said}"
        );

        let program = built("http")?;
        for (more, proto, continued) in [(None, "HTTP/1.1", true), (Some("h2c"), "HTTP/2.0", false)]
        {
            let mut command = Command::new(&program);
            command.arg(first.to_string()).args(more);
            let (out, _) = run(world, "go", command).await?;
            let said = json(&out)?;
            ensure!(said["proto"] == proto && said["reused"] == 3, "{said}");
            ensure!(
                said["statuses"] == serde_json::json!([200, 200, 200, 200]),
                "{said}"
            );
            ensure!(said["uploaded"] == "POST 70000", "{said}");
            // Of HTTP/1.1 both ways: the client's trailer reached the application, and the application's the client.
            ensure!(said["continued"] == continued, "{said}");
            ensure!(more.is_some() || said["trailer"] == "70000", "{said}");
        }
        Ok(())
    });
}

fn with(mut command: Command, arguments: &[String]) -> Command {
    command.args(arguments);
    command
}

async fn curl(world: &World, address: SocketAddr) -> Result<()> {
    let ask = async |arguments: &[&str], path: &str| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--verbose", "--max-time", "20"]);
        command.args([
            "--write-out",
            "\\n%{http_code} %{http_version} %{num_connects}\\n",
        ]);
        command
            .args(arguments)
            .arg(format!("http://{address}{path}"));
        run(world, "curl", command).await
    };
    let last = |out: &str| out.lines().last().unwrap_or_default().to_owned();
    let large = world.file("large", "x".repeat(100_000))?;
    let large = format!("@{}", large.display());
    let again = format!("http://{address}/first");
    let (out, err) = ask(&["--header", "x-hints: 1", &again], "/second").await?;
    // The second one used the connection of the first.
    ensure!(last(&out) == "200 1.1 0", "{out}");
    // Each had its hint before its answer.
    let hints = err.matches("< HTTP/1.1 103 Early Hints").count();
    ensure!(hints == 2, "{hints} hints: {err}");
    let (out, _) = ask(&["--http2-prior-knowledge"], "/").await?;
    ensure!(last(&out) == "200 2 1", "{out}");
    // Asks for `h2c`: it is answered, and nothing is switched.
    let (out, err) = ask(&["--http2"], "/").await?;
    ensure!(
        last(&out) == "200 1.1 1" && !err.contains("101 Switching"),
        "{out}{err}"
    );
    let (out, err) = ask(
        &["--header", "Expect: 100-continue", "--data-binary", &large],
        "/",
    )
    .await?;
    ensure!(
        out.contains("POST 100000") && err.contains("< HTTP/1.1 100 Continue"),
        "{out}{err}"
    );
    // Refused before a byte of the body was asked for.
    let refused = ["--header", "Expect: 100-continue", "--data-binary", &large];
    let (out, err) = ask(&refused, "/closed").await?;
    ensure!(
        last(&out).starts_with("401 ") && !err.contains("100 Continue"),
        "{out}{err}"
    );
    let (out, _) = ask(
        &[
            "--header",
            "Transfer-Encoding: chunked",
            "--data-binary",
            &large,
        ],
        "/",
    )
    .await?;
    ensure!(out.contains("POST 100000"), "{out}");
    let trailers = [
        "--header",
        "TE: trailers",
        "--header",
        "Connection: TE",
        "--dump-header",
        "-",
    ];
    let (out, _) = ask(&trailers, "/").await?;
    ensure!(out.to_lowercase().contains("x-seen: -"), "{out}");
    let (out, _) = ask(&["--head"], "/").await?;
    ensure!(last(&out) == "200 1.1 1", "{out}");
    Ok(())
}

async fn load(world: &World, address: SocketAddr) -> Result<()> {
    for version in [&[][..], &["--h1"]] {
        let mut command = Command::new("h2load");
        command.args([
            "--requests",
            "2000",
            "--clients",
            "10",
            "--max-concurrent-streams",
            "10",
        ]);
        command.args(version).arg(format!("http://{address}/"));
        let (out, _) = run(world, "h2load", command).await?;
        ensure!(out.contains("2000 succeeded, 0 failed, 0 errored"), "{out}");
        ensure!(out.contains("status codes: 2000 2xx"), "{out}");
    }
    Ok(())
}
