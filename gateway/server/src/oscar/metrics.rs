//! `/system/metrics`: how services were called, from the gateway's own counters.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::header;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use workers_protocol::InferError;

use super::usage::Calls;
use super::{query_value, rfc3339};
use crate::rest::{ApiError, Front};

/// What is counted of a service.
const METRICS: [&str; 10] = [
    "services-count",
    "cpu-hours",
    "gpu-hours",
    "requests-sync-per-service",
    "requests-async-per-service",
    "requests-exposed-per-service",
    "requests-per-user",
    "users-per-service",
    "countries-count",
    "countries-list",
];

#[derive(Clone, Serialize)]
struct Source {
    name: &'static str,
    status: &'static str,
    notes: &'static str,
}

/// Where the numbers come from.
const SOURCES: [Source; 2] = [
    Source {
        name: "hearth",
        status: "ok",
        notes: "counted by the hour in this process since it started, for 31 days; cpu-hours are the time that models ran",
    },
    Source {
        name: "geoip",
        status: "missing",
        notes: "countries are not known",
    },
];

#[derive(Serialize)]
struct Country {
    country: String,
    request_count: u64,
}

#[derive(Serialize)]
struct Summary {
    start: String,
    end: String,
    totals: Totals,
    sources: [Source; 2],
}

#[derive(Serialize)]
struct Totals {
    services_count_active: usize,
    services_count_total: usize,
    cpu_hours_total: f64,
    gpu_hours_total: f64,
    requests_count_total: u64,
    requests_count_sync: u64,
    requests_count_async: u64,
    requests_count_exposed: u64,
    countries_count: usize,
    countries: Vec<Country>,
    users_count: usize,
    users: Vec<String>,
}

#[derive(Serialize)]
struct Breakdown {
    start: String,
    end: String,
    group_by: &'static str,
    items: Vec<Item>,
}

#[derive(Default, Serialize)]
struct Item {
    key: String,
    #[serde(skip_serializing_if = "is_zero")]
    executions_count: u64,
    requests_count_total: u64,
    requests_count_sync: u64,
    requests_count_async: u64,
    requests_count_exposed: u64,
    unique_users_count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<Vec<String>>,
    countries: Vec<Country>,
}

#[derive(Serialize)]
struct OfService {
    service_name: String,
    start: String,
    end: String,
    metrics: Vec<Metric>,
}

#[derive(Serialize)]
struct Metric {
    metric: &'static str,
    value: f64,
    #[serde(skip_serializing_if = "str::is_empty")]
    unit: &'static str,
    sources: [Source; 2],
}

#[derive(Serialize)]
struct OneMetric {
    service_id: String,
    metric: &'static str,
    start: String,
    end: String,
    value: f64,
    #[serde(skip_serializing_if = "str::is_empty")]
    unit: &'static str,
    sources: [Source; 2],
}

/// The time that is asked for.
#[derive(Clone, Copy)]
struct Span {
    start: OffsetDateTime,
    end: OffsetDateTime,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

// === routes ===

pub(super) async fn summary(
    State(front): State<Arc<Front>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let span = Span::read(query.as_deref())?;
    let services = front.services.all();
    let mut calls = Calls::default();
    let mut n_active = 0;
    for service in &services {
        let own = service.usage.between(span.start, span.end);
        n_active += usize::from(own.total() > 0);
        calls.add(&own);
    }
    Ok(Json(Summary {
        start: rfc3339(span.start),
        end: rfc3339(span.end),
        totals: Totals {
            services_count_active: n_active,
            services_count_total: services.len(),
            cpu_hours_total: hours(&calls),
            gpu_hours_total: 0.0,
            requests_count_total: calls.total(),
            requests_count_sync: calls.n_sync,
            requests_count_async: calls.n_async,
            requests_count_exposed: 0,
            countries_count: 0,
            countries: Vec::new(),
            users_count: calls.users.len(),
            users: calls.users.into_keys().collect(),
        },
        sources: SOURCES,
    })
    .into_response())
}

pub(super) async fn breakdown(
    State(front): State<Arc<Front>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = query.as_deref();
    let span = Span::read(query)?;
    let with_users = super::flag(query, "include_users")?;
    let of_services = || {
        let services = front.services.all().into_iter();
        services.map(|service| {
            let calls = service.usage.between(span.start, span.end);
            (service.name().to_owned(), calls)
        })
    };
    let (group_by, items) = match query_value(query, "group_by").as_deref() {
        None | Some("service") => {
            let item = |(key, calls): (String, Calls)| Item {
                key,
                requests_count_total: calls.total(),
                requests_count_sync: calls.n_sync,
                requests_count_async: calls.n_async,
                unique_users_count: calls.users.len(),
                users: with_users.then(|| calls.users.into_keys().collect()),
                ..Item::default()
            };
            ("service", of_services().map(item).collect())
        }
        Some("user") => {
            let mut users = BTreeMap::<String, u64>::new();
            for (user, n_calls) in of_services().flat_map(|(_, calls)| calls.users) {
                *users.entry(user).or_default() += n_calls;
            }
            let item = |(key, n_calls)| Item {
                key,
                executions_count: n_calls,
                requests_count_total: n_calls,
                unique_users_count: 1,
                ..Item::default()
            };
            ("user", users.into_iter().map(item).collect())
        }
        // Nobody is asked where a caller is.
        Some("country") => ("country", Vec::new()),
        Some(_) => {
            return Err(
                InferError::invalid("`group_by`: expected `service`, `user` or `country`").into(),
            );
        }
    };
    match query_value(query, "format").as_deref() {
        None | Some("json") => Ok(Json(Breakdown {
            start: rfc3339(span.start),
            end: rfc3339(span.end),
            group_by,
            items,
        })
        .into_response()),
        Some("csv") => Ok(([(header::CONTENT_TYPE, "text/csv")], csv(&items)).into_response()),
        Some(_) => Err(InferError::invalid("`format`: expected `json` or `csv`").into()),
    }
}

pub(super) async fn of_service(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = query.as_deref();
    let span = Span::read(query)?;
    let service = front.services.find(&name)?;
    let calls = service.usage.between(span.start, span.end);
    let Some(wanted) = query_value(query, "metric") else {
        let metric = |metric| Metric {
            metric,
            value: value(metric, &calls),
            unit: unit(metric),
            sources: SOURCES,
        };
        return Ok(Json(OfService {
            service_name: name,
            start: rfc3339(span.start),
            end: rfc3339(span.end),
            metrics: METRICS.map(metric).into(),
        })
        .into_response());
    };
    let Some(metric) = METRICS.into_iter().find(|metric| *metric == wanted) else {
        return Err(InferError::invalid(format!(
            "`metric`: expected one of {}",
            METRICS.join(", ")
        ))
        .into());
    };
    Ok(Json(OneMetric {
        service_id: name,
        metric,
        start: rfc3339(span.start),
        end: rfc3339(span.end),
        value: value(metric, &calls),
        unit: unit(metric),
        sources: SOURCES,
    })
    .into_response())
}

// === parts ===

impl Span {
    /// Reads `start` and `end`; the last day where nothing is said.
    fn read(query: Option<&str>) -> Result<Self, InferError> {
        let read = |name: &str| match query_value(query, name) {
            None => Ok(None),
            // A `+` of a time zone that was not escaped is a blank by now.
            Some(text) => OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339)
                .map(Some)
                .map_err(|_| {
                    InferError::invalid(format!(
                        "`{name}`: expected a time as 2026-01-31T12:00:00Z (RFC 3339)"
                    ))
                }),
        };
        let end = read("end")?.unwrap_or_else(OffsetDateTime::now_utc);
        let start = match read("start")? {
            Some(start) => start,
            None => end.checked_sub(Duration::days(1)).unwrap_or(end),
        };
        if start > end {
            return Err(InferError::invalid("`start` is after `end`"));
        }
        Ok(Self { start, end })
    }
}

fn hours(calls: &Calls) -> f64 {
    calls.busy.as_secs_f64() / 3600.0
}

fn value(metric: &str, calls: &Calls) -> f64 {
    match metric {
        "services-count" => 1.0,
        "cpu-hours" => hours(calls),
        "requests-sync-per-service" => calls.n_sync as f64,
        "requests-async-per-service" => calls.n_async as f64,
        "requests-per-user" => calls.total() as f64 / calls.users.len().max(1) as f64,
        "users-per-service" => calls.users.len() as f64,
        _ => 0.0,
    }
}

fn unit(metric: &str) -> &'static str {
    match metric {
        "cpu-hours" | "gpu-hours" => "hours",
        "services-count" => "services",
        "users-per-service" => "users",
        "countries-count" | "countries-list" => "countries",
        _ => "requests",
    }
}

fn csv(items: &[Item]) -> String {
    let mut text = "key,executions_count,requests_count_total,requests_count_sync,\
                    requests_count_async,requests_count_exposed,unique_users_count\n"
        .to_owned();
    for item in items {
        // RFC 4180 § 2: a field in quotes, its quotes doubled.
        text.push_str(&format!(
            "\"{}\",{},{},{},{},{},{}\n",
            item.key.replace('"', "\"\""),
            item.executions_count,
            item.requests_count_total,
            item.requests_count_sync,
            item.requests_count_async,
            item.requests_count_exposed,
            item.unique_users_count
        ));
    }
    text
}
