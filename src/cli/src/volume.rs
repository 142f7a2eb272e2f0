//! Volumes for people, and what is done about them.

use crate::{
    Failure,
    args::VolumeVerb,
    client::Server,
    get::{header, json},
    print, print_done,
    table::{Grid, Look, age, bytes, plain, state},
};
use api::v1::{DeleteVolumesRequest, Snapshot, Volume};

pub(crate) async fn volume(server: &Server, verb: VolumeVerb) -> Result<(), Failure> {
    match verb {
        VolumeVerb::Rm { volumes } => {
            let volumes = volumes.iter().map(ToString::to_string).collect();
            print_done(&server.delete_volumes(DeleteVolumesRequest { volumes }).await?)
        }
        VolumeVerb::Inspect { volume } => {
            let snapshot = server.snapshot().await?;
            let found = snapshot.volumes.iter().find(|v| v.name == volume.as_str()).ok_or_else(|| {
                Failure::Refused(format!("there is no volume {volume}; `spacectl get volumes` lists them"))
            })?;
            print(&format!("{:#}\n", json(found)?))
        }
    }
}

pub(crate) fn volumes(snapshot: &Snapshot, look: Look) -> String {
    if snapshot.volumes.is_empty() {
        return "no volumes; `spacectl apply -f FILE` with kind = \"volume\" makes one\n".to_owned();
    }
    let names = header(
        look,
        &["VOLUME", "CLASS", "STATE", "USED", "SIZE", "MODULE", "APPS"],
        &["ACCESS", "INSTANCES", "QUOTA", "AGE"],
    );
    let mut grid = Grid::new(look, &[&names[..], &["MESSAGE"]].concat());
    for volume in &snapshot.volumes {
        let mut row = vec![
            plain(&volume.name),
            plain(&volume.class),
            state(&volume.state),
            plain(used(volume)),
            plain(bytes(volume.size)),
            plain(&volume.module),
            plain(volume.apps.join(" ")),
        ];
        if look.wide {
            row.extend([plain(&volume.access), plain(volume.instances.join(" ")), plain(&volume.quota)]);
            row.push(plain(age(snapshot.at, volume.created)));
        }
        row.push(plain(&volume.message));
        grid.row(row);
    }
    grid.render()
}

/// Nobody has looked yet, or nobody can.
fn used(volume: &Volume) -> String {
    if volume.quota.is_empty() { String::new() } else { bytes(volume.used) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_a_row() {
        let volume = Volume {
            name: "data".into(),
            class: "local".into(),
            access: "single-writer".into(),
            size: 100 << 20,
            state: "attached".into(),
            module: "module-2".into(),
            apps: vec!["db".into()],
            instances: vec!["db-1-1".into()],
            used: 3 << 20,
            quota: "project quota".into(),
            ..Volume::default()
        };
        let fresh = Volume { name: "new".into(), size: 1 << 20, state: "new".into(), ..Volume::default() };
        let snapshot = Snapshot { volumes: vec![volume, fresh], ..Snapshot::default() };
        let text = volumes(&snapshot, Look::default());
        let rows: Vec<String> =
            text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(rows[0], "VOLUME CLASS STATE USED SIZE MODULE APPS MESSAGE");
        assert_eq!(rows[1], "data local attached 3MiB 100MiB module-2 db -");
        assert_eq!(rows[2], "new - new - 1MiB - - -");
        assert!(volumes(&Snapshot::default(), Look::default()).contains("no volumes"));
    }
}
