//! An answer for people.

use std::fmt::Write as _;

use super::{
    answer::{Answer, Auth, Destination, Limit, Other, Refusal, Request, Taken},
    words::object,
};

/// How many of the others, and of routes elsewhere, are shown.
const SHOWN: usize = 12;

/// The text.
pub fn render(answer: &Answer) -> String {
    let Answer {
        request,
        at,
        listener,
        served,
        refusal,
        rule,
        others,
        elsewhere,
        notes,
    } = answer;
    let mut text = format!(
        "{}\n\n{}\n",
        asked(request),
        verdict(*served, refusal, rule)
    );
    let listener = listener.as_ref();
    let listener = listener
        .map(|name| format!(", listener {name}"))
        .unwrap_or_default();
    line(&mut text, "at", &format!("{at}{listener}"));
    line(&mut text, "client", &request.client);
    if let Some(rule) = rule {
        taken(&mut text, rule);
    }
    if let Some(Refusal { detail, hint, .. }) = refusal {
        detail
            .iter()
            .for_each(|detail| line(&mut text, "detail", detail));
        hint.iter().for_each(|hint| line(&mut text, "hint", hint));
    }
    notes.iter().for_each(|note| line(&mut text, "note", note));
    list(
        &mut text,
        "why not the others",
        others.iter().map(other).collect(),
    );
    let elsewhere = elsewhere
        .iter()
        .map(|route| (object(&route.route), route.why.join("; ")));
    list(&mut text, "not in force here", elsewhere.collect());
    text
}

fn asked(request: &Request) -> String {
    let Request {
        method,
        scheme,
        authority,
        path,
        query,
        client: _,
    } = request;
    let query = query.as_ref();
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{method} {scheme}://{authority}{path}{query}")
}

fn verdict(served: bool, refusal: &Option<Refusal>, rule: &Option<Taken>) -> String {
    let by = rule.as_ref();
    let by = by.map(|rule| format!("{}, rule {}", object(&rule.route), rule.name));
    match (refusal, by) {
        (Some(refusal), by) => {
            let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
            format!("refused: {}{by}", refused(refusal))
        }
        (None, Some(by)) if served => format!("served by {by}"),
        (None, Some(by)) => format!("not served by {by}"),
        (None, None) => "passes".to_owned(),
    }
}

fn refused(refusal: &Refusal) -> String {
    let status = match refusal.status {
        Some(status) => status.to_string(),
        None => "no answer".to_owned(),
    };
    format!("{status}, {} ({})", refusal.reason, refusal.phase)
}

fn taken(text: &mut String, rule: &Taken) {
    let Taken {
        route: _,
        name: _,
        hostname,
        spec,
        auth,
        limits,
        cache,
        filters,
        request_timeout_ms,
        backend_timeout_ms,
        destinations,
    } = rule;
    line(text, "hostname", hostname.as_deref().unwrap_or("any"));
    line(text, "match", spec);
    line(
        text,
        "auth",
        &auth.as_ref().map_or("anyone".to_owned(), who),
    );
    for limit in limits {
        line(text, "limit", &limited(limit));
    }
    cache.iter().for_each(|cache| line(text, "cache", cache));
    filters
        .iter()
        .for_each(|filter| line(text, "filter", filter));
    line(
        text,
        "timeouts",
        &format!(
            "request {}, each try {}",
            time(*request_timeout_ms),
            time(*backend_timeout_ms)
        ),
    );
    for destination in destinations {
        line(text, "backend", &share(destination));
    }
}

fn time(ms: u64) -> String {
    match ms {
        0 => "without end".to_owned(),
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

fn who(auth: &Auth) -> String {
    let Auth {
        any_of,
        anonymous,
        identity,
    } = auth;
    let any_of: Vec<String> = any_of.iter().map(|all_of| all_of.join(" and ")).collect();
    let mut text = any_of.join(", or ");
    if *anonymous {
        text.push_str(", or nobody");
    }
    if let Some(identity) = identity {
        // Writing into a String cannot fail.
        let _ = write!(text, "; this is {identity}");
    }
    text
}

fn limited(limit: &Limit) -> String {
    let Limit {
        name,
        burst,
        fill_seconds,
        scope,
        shadow,
        key,
    } = limit;
    let key = key.as_ref();
    let key = key.map_or("not charged, or not known yet".to_owned(), |key| {
        format!("key {key}")
    });
    let shadow = if *shadow { ", only counted" } else { "" };
    format!("{name}: {burst} at once, filled in {fill_seconds} s, {scope}, {key}{shadow}")
}

fn share(destination: &Destination) -> String {
    let Destination {
        percent,
        upstream: _,
        to,
        endpoints,
        refusal,
    } = destination;
    let endpoints = match endpoints {
        Some(1) => ", 1 endpoint".to_owned(),
        Some(number) => format!(", {number} endpoints"),
        None => String::new(),
    };
    let why = refusal.as_ref().map(|refusal| {
        let detail = refusal.detail.as_ref();
        let detail = detail
            .map(|detail| format!(": {detail}"))
            .unwrap_or_default();
        format!(", refused: {}{detail}", refused(refusal))
    });
    format!(
        "{percent:>5.1} % {to}{endpoints}{}",
        why.unwrap_or_default()
    )
}

fn other(other: &Other) -> (String, String) {
    let Other {
        route,
        rule,
        hostname,
        spec,
        fails: _,
        why,
    } = other;
    let hostname = hostname.as_deref().unwrap_or("any host");
    let name = format!("{}, rule {rule}", object(route));
    (name, format!("{why}  [{hostname}, {spec}]"))
}

fn list(text: &mut String, title: &str, items: Vec<(String, String)>) {
    if items.is_empty() {
        return;
    }
    let shown = &items[..items.len().min(SHOWN)];
    let width = shown.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or_default();
    // Writing into a String cannot fail.
    let _ = writeln!(text, "\n{title}");
    for (name, why) in shown {
        let _ = writeln!(text, "  {name:<width$}  {why}");
    }
    if items.len() > SHOWN {
        let _ = writeln!(text, "  and {} more: -o json has all", items.len() - SHOWN);
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing into a String cannot fail.
    let _ = writeln!(text, "  {name:<9} {value}");
}
