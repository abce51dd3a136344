//! The one error of an inference, shared by both processes.

use std::fmt;

/// What kind of failure, closed and small, mapped once to HTTP and once to gRPC.
///
/// The idea is quickwit's and Triton's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The caller sent something that can't be right.
    InvalidArgument,
    /// No or wrong credentials.
    Unauthenticated,
    /// The credentials do not allow it.
    PermissionDenied,
    /// No such model, version or route.
    NotFound,
    /// It is there already, and different.
    AlreadyExists,
    /// Over a limit of size that the caller can see to.
    TooLarge,
    /// There is no room now; later there will be.
    Overloaded,
    /// What is needed does not run now.
    Unavailable,
    /// The deadline passed, or could not be met.
    DeadlineExceeded,
    /// The caller went away.
    Cancelled,
    /// Not offered.
    Unimplemented,
    /// Our fault.
    Internal,
}

/// A failed inference: a code, and a sentence that says what was expected and what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferError {
    /// What kind of failure.
    pub code: Code,
    /// Lower case, no final full stop.
    pub message: String,
}

// === impl Code ===

impl Code {
    /// Every code, for tables and tests.
    pub const ALL: [Self; 12] = [
        Self::InvalidArgument,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::NotFound,
        Self::AlreadyExists,
        Self::TooLarge,
        Self::Overloaded,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::Unimplemented,
        Self::Internal,
    ];

    /// Returns the HTTP status. 499 (nginx's "client closed request") is only ever logged.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidArgument => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists => 409,
            Self::TooLarge => 413,
            Self::Overloaded => 429,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
            Self::Cancelled => 499,
            Self::Unimplemented => 501,
            Self::Internal => 500,
        }
    }

    /// Returns the gRPC status code's number (google.rpc.Code).
    pub const fn grpc_code(self) -> i32 {
        match self {
            Self::Cancelled => 1,
            Self::InvalidArgument => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::Overloaded => 8,
            Self::TooLarge => 11,
            Self::Unimplemented => 12,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::Unauthenticated => 16,
        }
    }

    /// Returns the code of this gRPC number, [`Code::Internal`] for those that are not ours.
    pub fn from_grpc_code(number: i64) -> Self {
        Self::ALL
            .into_iter()
            .find(|code| i64::from(code.grpc_code()) == number)
            .unwrap_or(Self::Internal)
    }
}

// === impl InferError ===

impl InferError {
    /// Returns an error of this code, saying this.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Returns an [`Code::InvalidArgument`] error.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// Returns a [`Code::TooLarge`] error.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(Code::TooLarge, message)
    }

    /// Returns a [`Code::Internal`] error.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }
}

impl fmt::Display for InferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for InferError {}
