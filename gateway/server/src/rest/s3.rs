//! The S3 endpoint: its own listener, and what is checked and counted there as everywhere.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use gateway_objects::Service;
use http::{Method, StatusCode};

use super::guard::Cors;
use super::{Front, refuse};

/// Returns what answers S3 clients. Who they are says their signature; which pages may call, and under
/// which name, is as for everything else.
pub(crate) fn router(front: Arc<Front>, service: Service) -> Router {
    Router::new().fallback(move |request: Request| {
        let (front, service) = (Arc::clone(&front), service.clone());
        async move { answer(&front, &service, request).await }
    })
}

async fn answer(front: &Front, service: &Service, request: Request) -> Response {
    let route = label(request.method());
    let cors = front.guard.cors(&request);
    let is_preflight = cors.as_ref().is_some_and(Cors::is_preflight);
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    let mut response = match front.guard.check(method, uri, headers) {
        Ok(()) if is_preflight => Cors::answer(),
        Ok(()) => service.call(request).await.map(Body::new),
        Err(error) => refuse(request.into_body(), error).into_response(),
    };
    if let Some(cors) = cors {
        cors.add(response.headers_mut());
    }
    let status = response.status();
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(route, "failed");
    }
    front
        .dispatcher
        .metrics
        .count_request(route, status.as_u16());
    response
}

/// Returns how the metrics name a request.
const fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "s3 GET",
        Method::HEAD => "s3 HEAD",
        Method::PUT => "s3 PUT",
        Method::POST => "s3 POST",
        Method::DELETE => "s3 DELETE",
        _ => "s3",
    }
}
