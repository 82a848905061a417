//! What a Pod may say about its sidecar: annotations, each validated. What is not understood refuses the Pod: a misspelt
//! wish that is ignored would be found out in production.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use serde_json::{Value, json};
use sluice_crds::{
    common::{Duration, Quantity},
    sluice_config::{CaptureMode, InjectionResources, LogLevel, MAX_APP_STOP_DELAY_S},
};

use super::{InjectError, Injection, json, ports, stop};

/// Annotations under this prefix are ours.
const PREFIX: &str = "sluice.dev/";
/// Ports that one Pod may exclude.
const MAX_EXCLUDED: usize = 64;
/// What a sidecar without traffic needs; less is a unit forgotten.
const LEAST_MEMORY: u64 = 4 << 20;
const MAX_DATA_THREADS: u16 = 256;
/// Of a value that is quoted.
const MAX_QUOTED: usize = 64;

const CAPTURE: &str = "sluice.dev/capture";
const EXCLUDE: &str = "sluice.dev/exclude-inbound-ports";
const LOG_LEVEL: &str = "sluice.dev/log-level";
const DATA_THREADS: &str = "sluice.dev/data-threads";
const CPU_REQUEST: &str = "sluice.dev/cpu-request";
const CPU_LIMIT: &str = "sluice.dev/cpu-limit";
const MEMORY_REQUEST: &str = "sluice.dev/memory-request";
const MEMORY_LIMIT: &str = "sluice.dev/memory-limit";
const APP_STOP_DELAY: &str = "sluice.dev/app-stop-delay";

/// An annotation for people: what it may be and what it says.
#[derive(Debug, Clone, Copy)]
pub struct Annotation {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub values: &'static str,
    /// What it says, and what holds without it.
    pub says: &'static str,
}

/// Every annotation of a Pod that is read or written here.
pub const ANNOTATIONS: [Annotation; 10] = [
    Annotation {
        name: CAPTURE,
        values: "`Redirect`, `NamedPorts`",
        says: "how traffic reaches the sidecar; without: `SluiceConfig.injection.capture`, else `Redirect`",
    },
    Annotation {
        name: EXCLUDE,
        values: "up to 64 ports: `\"9090,9100\"`",
        says: "ports that clients reach past the sidecar; without: none",
    },
    Annotation {
        name: LOG_LEVEL,
        values: "`error`, `warn`, `info`, `debug`, `trace`",
        says: "what the sidecar logs; without: `SluiceConfig.injection.logLevel`, else `info`",
    },
    Annotation {
        name: DATA_THREADS,
        values: "`\"1\"` to `\"256\"`",
        says: "threads that carry traffic; without: `SluiceConfig.injection.dataThreads`, else 1, and 2 in a Pod that asks for a whole core or more",
    },
    Annotation {
        name: CPU_REQUEST,
        values: "a quantity above 0: `50m`",
        says: "what the scheduler sets aside for the sidecar; without: `SluiceConfig.injection.resources`, else `50m`",
    },
    Annotation {
        name: CPU_LIMIT,
        values: "a quantity, at least the request: `500m`",
        says: "what the sidecar may not exceed; without: `SluiceConfig.injection.resources`, else no limit",
    },
    Annotation {
        name: MEMORY_REQUEST,
        values: "a quantity of at least 4Mi: `32Mi`",
        says: "what the scheduler sets aside for the sidecar; without: `SluiceConfig.injection.resources`, else `32Mi`",
    },
    Annotation {
        name: MEMORY_LIMIT,
        values: "a quantity, at least the request: `128Mi`",
        says: "what the sidecar may not exceed; without: `SluiceConfig.injection.resources`, else no limit",
    },
    Annotation {
        name: APP_STOP_DELAY,
        values: "whole seconds up to 10m: `5s`; `0s` for none",
        says: "how long app containers without a preStop hook go on after the Pod was deleted, added to the Pod's grace period; without: `SluiceConfig.injection.appStopDelay`, else `5s`",
    },
    Annotation {
        name: stop::RECORD,
        values: "seconds",
        says: "written by the injector, never by people: the grace period that the Pod itself has",
    },
];

/// What one Pod is to get.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wishes {
    pub(super) capture: CaptureMode,
    pub(super) excluded: BTreeSet<u16>,
    pub(super) log_level: Option<LogLevel>,
    /// None: what the Pod asks for decides.
    pub(super) data_threads: Option<u16>,
    /// As a container has it.
    pub(super) resources: Value,
    pub(super) stop_delay_s: u64,
}

impl Wishes {
    /// The Pod's, and where it says nothing the platform's.
    pub(super) fn of(pod: &Value, injection: &Injection) -> Result<Self, InjectError> {
        let said = Said::of(pod)?;
        let capture = said.read(CAPTURE, capture_mode)?;
        let capture = capture.unwrap_or(injection.capture);
        Ok(Self {
            capture,
            excluded: said
                .read(EXCLUDE, |text| excluded(text, capture))?
                .unwrap_or_default(),
            log_level: said.read(LOG_LEVEL, log_level)?.or(injection.log_level),
            data_threads: said
                .read(DATA_THREADS, data_threads)?
                .or(injection.data_threads),
            resources: resources(&said, injection.resources.as_ref())?,
            stop_delay_s: said
                .read(APP_STOP_DELAY, stop_delay)?
                .unwrap_or(injection.app_stop_delay_s),
        })
    }
}

/// The Pod's annotations of ours.
struct Said<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Said<'a> {
    fn of(pod: &'a Value) -> Result<Self, InjectError> {
        let annotations = pod.pointer("/metadata/annotations");
        let annotations = annotations.and_then(Value::as_object).into_iter().flatten();
        let mut said = BTreeMap::new();
        for (name, value) in annotations {
            let value = value.as_str().unwrap_or_default();
            if !name.starts_with(PREFIX) {
                continue;
            }
            if !ANNOTATIONS.iter().any(|known| known.name == name) {
                let mend = match name == super::OPT_OUT {
                    true => "it is read as a label, not as an annotation".to_owned(),
                    false => format!("there is no such annotation; known are {}", names()),
                };
                return Err(refused(name, value, mend));
            }
            said.insert(name.as_str(), value);
        }
        Ok(Self(said))
    }

    /// What one of them says, if it is there.
    fn read<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, InjectError> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        match parse(value) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(mend) => Err(refused(name, value, mend)),
        }
    }
}

fn refused(name: &str, value: &str, mend: String) -> InjectError {
    InjectError::Annotation {
        name: name.chars().take(2 * MAX_QUOTED).collect(),
        value: value.chars().take(MAX_QUOTED).collect(),
        mend,
    }
}

fn names() -> String {
    let people = ANNOTATIONS
        .iter()
        .filter(|known| known.name != stop::RECORD);
    people
        .map(|known| known.name)
        .collect::<Vec<_>>()
        .join(", ")
}

fn capture_mode(text: &str) -> Result<CaptureMode, String> {
    serde_json::from_value(text.into()).map_err(|_| "write Redirect or NamedPorts".to_owned())
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "write error, warn, info, debug or trace".to_owned())
}

fn data_threads(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|threads| (1..=MAX_DATA_THREADS).contains(threads))
        .ok_or_else(|| format!("write a number from 1 to {MAX_DATA_THREADS}"))
}

fn excluded(text: &str, mode: CaptureMode) -> Result<BTreeSet<u16>, String> {
    let mut excluded = BTreeSet::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let port = part.parse::<u16>().ok().filter(|port| *port != 0);
        let port =
            port.ok_or("write port numbers from 1 to 65535 with commas between: \"9090,9100\"")?;
        if ports::is_ours(port, mode) {
            return Err(format!("{port} is the sidecar's own port: leave it out"));
        }
        excluded.insert(port);
    }
    match excluded.len() > MAX_EXCLUDED {
        true => Err(format!("exclude at most {MAX_EXCLUDED} ports")),
        false => Ok(excluded),
    }
}

fn stop_delay(text: &str) -> Result<u64, String> {
    let delay = Duration::from_str(text)
        .map_err(|error| error.to_string())?
        .get();
    match delay.subsec_nanos() == 0 && delay.as_secs() <= MAX_APP_STOP_DELAY_S {
        true => Ok(delay.as_secs()),
        false => Err("write whole seconds, at most 10m: 5s, or 0s for none".to_owned()),
    }
}

/// Requests and limits: the platform's or the defaults, with what the Pod says in their place.
fn resources(said: &Said<'_>, platform: Option<&InjectionResources>) -> Result<Value, InjectError> {
    let mut resources = match platform {
        Some(platform) => json!(platform),
        // No CPU limit: throttling delays answers long before it saves anything.
        None => json!({"requests": {"cpu": "50m", "memory": "32Mi"}}),
    };
    let wishes = [
        (CPU_REQUEST, "requests", "cpu"),
        (CPU_LIMIT, "limits", "cpu"),
        (MEMORY_REQUEST, "requests", "memory"),
        (MEMORY_LIMIT, "limits", "memory"),
    ];
    for (annotation, kind, resource) in wishes {
        let Some(quantity) = said.read(annotation, |text| quantity(text, resource))? else {
            continue;
        };
        if let Some(values) = json::object(&mut resources, kind) {
            values.insert(resource.to_owned(), quantity.as_str().into());
        }
    }
    limits_hold_requests(said, &resources)?;
    Ok(resources)
}

fn quantity(text: &str, resource: &str) -> Result<Quantity, String> {
    let quantity = Quantity::from_str(text).map_err(|error| error.to_string())?;
    match resource {
        "memory" if quantity.value() < LEAST_MEMORY => {
            Err("write at least 4Mi; without a suffix it is bytes".to_owned())
        }
        _ if quantity.milli_value() == 0 => Err("write more than zero".to_owned()),
        _ => Ok(quantity),
    }
}

/// The API server would refuse the Pod, in words that name no annotation.
fn limits_hold_requests(said: &Said<'_>, resources: &Value) -> Result<(), InjectError> {
    let pairs = [
        ("cpu", CPU_REQUEST, CPU_LIMIT),
        ("memory", MEMORY_REQUEST, MEMORY_LIMIT),
    ];
    for (resource, request_annotation, limit_annotation) in pairs {
        let amount = |kind: &str| {
            let text = resources.get(kind)?.get(resource)?.as_str()?;
            Quantity::from_str(text).ok()
        };
        let (Some(request), Some(limit)) = (amount("requests"), amount("limits")) else {
            continue;
        };
        if request.milli_value() <= limit.milli_value() {
            continue;
        }
        // What the platform says by itself is the platform's to mend.
        return Err(match said.0.get(limit_annotation) {
            Some(value) => refused(
                limit_annotation,
                value,
                format!(
                    "write at least the request, {request}, or lower that with {request_annotation}"
                ),
            ),
            None => refused(
                request_annotation,
                said.0.get(request_annotation).unwrap_or(&""),
                format!("write at most the limit, {limit}, or raise that with {limit_annotation}"),
            ),
        });
    }
    Ok(())
}
