//! What comes out of each kind, whole, and that the schema takes it.

use super::*;

const INGRESS: &str = "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: shop
  namespace: shop
  labels: {team: a}
  annotations:
    nginx.ingress.kubernetes.io/proxy-body-size: 8m
    nginx.ingress.kubernetes.io/unheard-of: x
    owner: team-a
spec:
  ingressClassName: nginx
  defaultBackend: {service: {name: fallback, port: {number: 80}}}
  tls: [{hosts: [shop.example], secretName: shop-tls}]
  rules:
  - host: shop.example
    http:
      paths:
      - {path: /v1, pathType: Prefix, backend: {service: {name: orders, port: {name: http}}}}
      - {path: /healthz, pathType: Exact, backend: {service: {name: orders, port: {number: 8080}}}}
      - {path: /files, pathType: Prefix, backend: {resource: {kind: Bucket, name: files}}}
  - host: \"*.shop.example\"
    http:
      paths:
      - {path: /, pathType: ImplementationSpecific, backend: {service: {name: orders, port: {name: grpc}}}}
      - {path: /, pathType: ImplementationSpecific, backend: {service: {name: orders, port: {number: 80}}}}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: inner
  namespace: shop
  annotations: {nginx.ingress.kubernetes.io/auth-url: http://login/}
spec:
  defaultBackend: {service: {name: inner, port: {number: 80}}}
";

const HTTP_ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs:
  - {name: public, namespace: infra, sectionName: https}
  - {kind: ListenerSet, name: more}
  hostnames: [shop.example]
  rules:
  - name: read
    matches:
    - {path: {value: /v1}, method: GET, headers: [{name: X-A, value: \"1\"}, {name: x-a, value: \"2\"}]}
    - {path: {type: RegularExpression, value: /v./x}, queryParams: [{type: RegularExpression, name: q, value: a.*}]}
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-b, value: b}], remove: [x-c]}}
    - {type: URLRewrite, urlRewrite: {hostname: b.example}}
    - {type: ExtensionRef, extensionRef: {group: sluice.dev, kind: ApiRoute, name: profile}}
    backendRefs:
    - {name: orders, port: 80, weight: 9}
    - {name: orders-next, port: 80, weight: 1}
    - {name: far, namespace: else, port: 80}
    timeouts: {request: 5s, backendRequest: 1s}
    retry: {attempts: 3}
  - filters:
    - {type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}
  - filters:
    - {type: ExternalAuth, externalAuth: {}}
    backendRefs: [{name: orders, port: 80}]
";

fn made(text: &str) -> Made {
    let source = Source {
        name: "a.yaml".to_owned(),
        text: text.to_owned(),
    };
    let gateway = "infra/public".parse().expect("a Gateway");
    let made = convert(&[source], &gateway).expect("converted");
    for route in &made.routes {
        let parsed = manifest::parse("made.yaml", &output::yaml(route).expect("YAML"));
        assert!(parsed.findings.is_empty(), "{:?}", parsed.findings);
        assert_eq!(parsed.objects.len(), 1);
    }
    made
}

fn shown(made: &Made) -> String {
    let routes = made
        .routes
        .iter()
        .map(|route| output::yaml(route).expect("YAML"));
    let routes: Vec<String> = routes.collect();
    let left = made.left.iter().map(|left| {
        let Left {
            object,
            path,
            message,
        } = left;
        format!("# {object} {path}: {message}\n")
    });
    routes.join("---\n") + &left.collect::<String>()
}

#[test]
fn an_ingress_is_a_route_for_each_host() {
    insta::assert_snapshot!("ingress", shown(&made(INGRESS)));
}

#[test]
fn an_http_route_is_a_route() {
    insta::assert_snapshot!("http_route", shown(&made(HTTP_ROUTE)));
}

#[test]
fn what_keeps_somebody_out_is_never_dropped_alone() {
    let made = made(&format!("{INGRESS}---\n{HTTP_ROUTE}"));
    let text = serde_json::to_string(&made.routes).expect("JSON");
    assert!(!text.contains("\"inner\""), "an Ingress with auth-url");
    assert!(!text.contains("rule-2"), "a rule with ExternalAuth");
}

#[test]
fn many_matches_are_several_rules() {
    let matches: String = (0..20)
        .map(|n| format!("    - {{path: {{value: /v{n}}}}}\n"))
        .collect();
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: many, namespace: shop}}
spec:
  parentRefs: [{{name: public}}]
  rules:
  - matches:
{matches}    backendRefs: [{{name: a, port: 80}}]
"
    );
    let made = made(&text);
    let rules = made.routes[0]["spec"]["rules"].as_array().expect("rules");
    let names: Vec<&str> = rules
        .iter()
        .filter_map(|rule| rule["name"].as_str())
        .collect();
    assert_eq!(names, ["rule-0", "rule-0-2", "rule-0-3"]);
    assert!(made.left.is_empty());
}

#[test]
fn nothing_to_convert_is_an_error() {
    let source = Source {
        name: "a.yaml".to_owned(),
        text: "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n".to_owned(),
    };
    let gateway = "public".parse().expect("a Gateway");
    let nothing = convert(&[source], &gateway).expect_err("nothing");
    assert!(matches!(nothing, ConvertError::Nothing));
}
