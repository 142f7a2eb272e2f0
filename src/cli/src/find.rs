use crate::Failure;
use api::v1::{Instance, Snapshot};
use model::{InstanceId, ReplicaId};

/// The instances that `target` means: one by its id, or those of a replica, newest first. A replica has two
/// while it moves.
pub(crate) fn instances<'a>(snapshot: &'a Snapshot, target: &str) -> Result<Vec<&'a Instance>, Failure> {
    if let Some(one) = snapshot.instances.iter().find(|instance| instance.id == target) {
        return Ok(vec![one]);
    }
    let replica: ReplicaId = target.parse().map_err(|e: model::SpecError| Failure::Refused(e.to_string()))?;
    let wanted = replica.to_string();
    let mut found: Vec<&Instance> = snapshot.instances.iter().filter(|i| i.replica == wanted).collect();
    if found.is_empty() {
        return Err(Failure::Refused(missing(snapshot, target, &replica)));
    }
    // Ids of one replica differ only in their last number, which does not sort as text does.
    found.sort_by_key(|instance| std::cmp::Reverse(instance.id.parse::<InstanceId>().ok()));
    Ok(found)
}

fn missing(snapshot: &Snapshot, target: &str, replica: &ReplicaId) -> String {
    if let Some(app) = snapshot.apps.iter().find(|app| app.name == replica.app.as_str()) {
        let name = &app.name;
        return match app.replicas {
            0 => format!("app {name} has no replicas; `spacectl scale {name} 1` gives it one"),
            n if replica.number > n => {
                format!("app {name} has no replica {}; they are {name}/1 to {name}/{n}", replica.number)
            }
            _ => format!("{replica} has no instance at this moment; try again"),
        };
    }
    format!("there is no instance or app {target}; `spacectl get instances` lists what there is")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{app, instance, snapshot};

    #[test]
    fn a_target_is_an_id_or_a_replica() {
        let mut all = snapshot();
        all.apps = vec![app("cam", 2, 2)];
        all.instances = vec![
            instance("cam-1-9", "module-1"),
            instance("cam-1-10", "module-2"),
            instance("cam-2-3", "module-1"),
        ];
        let ids = |target: &str| -> Vec<String> {
            instances(&all, target).unwrap().into_iter().map(|i| i.id.clone()).collect()
        };
        assert_eq!(ids("cam-2-3"), ["cam-2-3"]);
        assert_eq!(ids("cam/1"), ["cam-1-10", "cam-1-9"]);
        assert_eq!(ids("cam"), ["cam-1-10", "cam-1-9"]);
        let told = |target: &str| instances(&all, target).unwrap_err().to_string();
        assert!(told("cam/3").contains("cam/1 to cam/2"), "{}", told("cam/3"));
        assert!(told("gone").contains("get instances"), "{}", told("gone"));
        assert!(told("cam/x").contains("APP/NUMBER"), "{}", told("cam/x"));
    }
}
