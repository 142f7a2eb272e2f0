//! Volumes in messages: JSON of the model's own types between server and agents, fields for people.

use crate::{BadMessage, v1};
use model::{VolumeKey, VolumeReport, VolumeState};
use serde::{Serialize, de::DeserializeOwned};

pub(crate) fn to_json(field: &'static str, value: &impl Serialize) -> Result<String, BadMessage> {
    serde_json::to_string(value).map_err(|source| BadMessage::Json { field, source })
}

/// One side that knows no volumes says nothing of them.
pub(crate) fn from_json<T: DeserializeOwned + Default>(
    field: &'static str,
    text: &str,
) -> Result<T, BadMessage> {
    if text.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_str(text).map_err(|source| BadMessage::Json { field, source })
}

/// For a heartbeat.
///
/// # Errors
/// Never in practice.
pub fn to_volumes(report: &VolumeReport) -> Result<String, BadMessage> {
    if *report == VolumeReport::default() {
        return Ok(String::new());
    }
    to_json("volumes_json", report)
}

/// From a heartbeat.
///
/// # Errors
/// A bad report.
pub fn from_volumes(text: &str) -> Result<VolumeReport, BadMessage> {
    from_json("volumes_json", text)
}

/// For an order.
///
/// # Errors
/// Never in practice.
pub fn to_erase(keys: &[VolumeKey]) -> Result<Vec<String>, BadMessage> {
    keys.iter().map(|key| to_json("erase_json", key)).collect()
}

/// From an order.
///
/// # Errors
/// A bad key.
pub fn from_erase(texts: &[String]) -> Result<Vec<VolumeKey>, BadMessage> {
    let parse = |text: &String| {
        serde_json::from_str(text).map_err(|source| BadMessage::Json { field: "erase_json", source })
    };
    texts.iter().map(parse).collect()
}

/// For people: a volume.
pub fn view_volume(state: &VolumeState<'_>) -> v1::Volume {
    let VolumeState { volume, apps, attached, seen } = state;
    let word = match (volume.deleting, attached.is_empty(), volume.used) {
        (true, ..) => "deleting",
        (_, false, _) => "attached",
        (_, _, true) => "bound",
        _ => "new",
    };
    v1::Volume {
        name: volume.name().to_string(),
        class: volume.spec.class.as_str().to_owned(),
        access: volume.spec.access.as_str().to_owned(),
        size: volume.spec.size.0,
        created: volume.created,
        state: word.to_owned(),
        module: volume.module.as_ref().map(ToString::to_string).unwrap_or_default(),
        apps: apps.iter().map(ToString::to_string).collect(),
        instances: attached.iter().map(|(id, _)| id.to_string()).collect(),
        used: seen.map_or(0, |s| s.used.0),
        quota: seen.map(|s| s.quota.clone()).unwrap_or_default(),
        message: seen.map(|s| s.message.clone()).unwrap_or_default(),
    }
}
