//! Errors as the distribution spec words them.

use crate::{
    digest::DigestError,
    name::NameError,
    route::RouteError,
    serve::chain,
    store::{PutError, StoreError},
};
use axum::{
    http::{HeaderName, StatusCode, header},
    response::Response,
};
use std::error::Error;

/// The spec's error codes that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    Unknown,
}

impl Code {
    fn text(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// A request that was not followed.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: Code,
    message: String,
    headers: Vec<(HeaderName, String)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new() }
    }

    pub(super) fn not_found(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn bad(code: Code, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// Our fault: the log has the details, the client has not.
    pub(super) fn internal(error: &dyn Error) -> Self {
        tracing::error!(error = chain(error), "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown, "the registry failed; its log says why")
    }

    pub(super) fn with_headers(mut self, headers: impl IntoIterator<Item = (HeaderName, String)>) -> Self {
        self.headers.extend(headers);
        self
    }

    pub(super) fn into_response(self) -> Response {
        let body = serde_json::json!({"errors": [{"code": self.code.text(), "message": self.message}]});
        let kind = (header::CONTENT_TYPE, "application/json".to_owned());
        super::with_body(self.status, self.headers.into_iter().chain([kind]), body.to_string().into())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        if error.is_full() {
            tracing::error!(error = chain(&error), "no room");
            let message = match &error {
                StoreError::Quota { .. } | StoreError::Reserve { .. } => error.to_string(),
                _ => "the registry's disk is full; delete images or collect garbage".to_owned(),
            };
            return Self::new(StatusCode::INSUFFICIENT_STORAGE, Code::Denied, message);
        }
        Self::internal(&error)
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        let message = chain(&error);
        match error {
            NameError::Repository(_) => Self::bad(Code::NameInvalid, message),
            NameError::Tag(_) => Self::bad(Code::ManifestInvalid, message),
            NameError::Digest(_) => Self::bad(Code::DigestInvalid, message),
            NameError::Upload(_) => Self::not_found(Code::BlobUploadUnknown, message),
        }
    }
}

impl From<DigestError> for Refusal {
    fn from(error: DigestError) -> Self {
        NameError::from(error).into()
    }
}

impl From<RouteError> for Refusal {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::Unknown => Self::not_found(Code::Unsupported, error.to_string()),
            RouteError::Name(name) => name.into(),
        }
    }
}

impl From<PutError> for Refusal {
    fn from(error: PutError) -> Self {
        let message = chain(&error);
        match error {
            PutError::Json(_) | PutError::Invalid(_) => Self::bad(Code::ManifestInvalid, message),
            PutError::Digest { .. } => Self::bad(Code::DigestInvalid, message),
            PutError::Missing(_) => Self::not_found(Code::ManifestBlobUnknown, message),
            PutError::Store(error) => error.into(),
        }
    }
}
