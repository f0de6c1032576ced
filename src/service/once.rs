//! Requests that may be sent again: what names a key is carried out once, and answered alike whenever it comes again.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::db::{Answers, Transaction};
use crate::service::ServiceError;
use crate::types::{RequestKey, SubjectId};

/// An answer, and whether it was given before.
#[derive(Debug)]
pub struct Once<T> {
    pub answer: T,
    pub repeated: bool,
}

/// Carries a request out, unless one with the same key was. `work` keeps its answer by [`keep`] in the transaction that does what was
/// asked for; so there is an answer if, and only if, that was done. A request that fails did nothing and keeps nothing: under
/// the same key it is tried anew.
pub(in crate::service) async fn once<T: DeserializeOwned>(
    answers: &Answers,
    key: Option<&RequestKey>,
    work: impl Future<Output = Result<T, ServiceError>>,
) -> Result<Once<T>, ServiceError> {
    let first = |answer| Once { answer, repeated: false };
    let Some(key) = key else { return work.await.map(first) };
    if let Some(answer) = kept(answers, key).await? {
        return Ok(Once { answer, repeated: true });
    }
    match work.await {
        Ok(answer) => Ok(first(answer)),
        // Maybe because the same request was carried out meanwhile, here or at another server.
        Err(error) => match kept(answers, key).await? {
            Some(answer) => Ok(Once { answer, repeated: true }),
            None => Err(error),
        },
    }
}

async fn kept<T: DeserializeOwned>(answers: &Answers, key: &RequestKey) -> Result<Option<T>, ServiceError> {
    let Some(kept) = answers.find(key).await? else { return Ok(None) };
    if !kept.is_of(key) {
        return Err(ServiceError::KeyReused);
    }
    let answer = kept.answer.ok_or(ServiceError::AnswerErased)?;
    serde_json::from_value(answer).map(Some).map_err(|error| ServiceError::Internal(error.to_string()))
}

/// Keeps the answer to a request that named a key; `subjects` are those whom it names.
pub(in crate::service) async fn keep(
    transaction: &mut Transaction,
    key: Option<&RequestKey>,
    answer: &impl Serialize,
    subjects: &[SubjectId],
) -> Result<(), ServiceError> {
    match key {
        Some(key) => Ok(transaction.keep_answer(key, answer, subjects).await?),
        None => Ok(()),
    }
}
