//! gRPC: the health probe that Kubernetes users know, and grpc-go at both ends.

use super::*;
use crate::place::secret;
use sluice_tests::isolated;

const KEY: &str = "an-api-key-of-acme-0123456789";
/// One method asks for a key.
const ROUTE: &str = "  auth:
    providers: [{name: keys, type: APIKey, apiKey: {secretRef: {name: acme}}}]
  rules:
  - name: closed
    matches: [{path: {type: Exact, value: /grpc.testing.TestService/EmptyCall}}]
    auth: {anyOf: [{allOf: [keys]}]}
  - name: all
    auth: {anonymous: Allow}
";

#[test]
fn calls_of_every_shape_pass_and_refusals_are_understood() {
    isolated!(async |world| {
        let plan = Plan::new(world)?;
        plan.put("secret", &secret("acme", "api-keys", "acme-1", KEY))?;
        let addresses = planned(&plan, world, "chat", ROUTE, "kubernetes.io/h2c")?;
        let place = plan.start().await?;
        let program = built("grpc")?;
        let pods = front(world, &place, "chat", addresses, |address| {
            let mut command = Command::new(&program);
            command.args(["serve", &address.to_string()]);
            Ok(command)
        })
        .await?;
        for (_, sidecar) in &pods {
            let mut command = Command::new(built("grpc-health-probe")?);
            command.arg(format!("-addr={}", sidecar.address));
            let (out, err) = run(world, "probe", command).await?;
            ensure!(
                (out + &err).contains("SERVING"),
                "the probe says something else"
            );

            let client = async |verb: &str| {
                let mut command = Command::new(&program);
                command.args([verb, &sidecar.address.to_string()]);
                json(&run(world, &format!("grpc-{verb}"), command).await?.0)
            };
            let said = client("call").await?;
            let expected = serde_json::json!({
                "unary": 100_000, "via": "2.0 sluice",
                "code": "FailedPrecondition", "message": "not 100% ready\n",
                "down": 2_500_000, "up": 2_500_000, "pingPong": 100,
                "cancelled": "Canceled", "deadline": "DeadlineExceeded",
            });
            ensure!(said == expected, "{said}");
            let said = client("refused").await?;
            let expected = serde_json::json!({"code": "Unauthenticated", "message": "Credentials are required"});
            ensure!(said == expected, "{said}");
            eventually("the refusal's line", seconds(10), async || {
                let log = sidecar.access_log();
                let refused = |line: &Value| line["rule"] == "closed" && line["status"] == 401;
                ensure!(log.iter().any(refused), "{log:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}
