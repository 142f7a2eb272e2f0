use crate::{
    Request,
    testing::{Bench, name, spec},
};
use model::{AppFile, AppSpec, Name, Phase, VolumeReport, VolumeSeen};

fn volume(name: &str, more: &str) -> model::VolumeSpec {
    let text = format!("kind='volume'\nname='{name}'\nsize='100MiB'\n{more}\n");
    AppFile::parse("test", &text).unwrap().volumes.remove(0)
}

fn with(name: &str, mounted: &str, more: &str) -> AppSpec {
    spec(name, &format!("volumes = [{{ name = '{mounted}', path = '/data' }}]\n{more}"))
}

fn bench(class: &str, app: &str) -> Bench {
    let mut bench = Bench::new(&[0, 0, 0]);
    let volume = volume("data", &format!("class = '{class}'"));
    bench.ask(Request::ApplyAll(vec![volume], vec![with("db", "data", app)])).unwrap();
    bench.run(500);
    bench
}

fn drain(bench: &mut Bench, slot: u16) {
    let module = Name::of_module(slot);
    bench.ask(Request::Cordon { module, cordoned: true, draining: true }).unwrap();
    bench.run(2000);
}

fn slot_of(bench: &Bench, app: &str) -> u16 {
    let module = bench.of(app).module.clone().unwrap();
    (1..=4).find(|slot| Name::of_module(*slot) == module).unwrap()
}

fn say(bench: &mut Bench, slot: u16, storage: &str, seen: Vec<VolumeSeen>) {
    let report = VolumeReport { storage: storage.to_owned(), volumes: seen };
    bench.reports.insert(Name::of_module(slot), report);
    bench.run(300);
}

#[test]
fn a_local_volume_is_where_it_was_first_used_and_pins_there() {
    let mut bench = bench("local", "");
    let slot = slot_of(&bench, "db");
    assert_eq!(bench.core.volumes().next().unwrap().volume.module, Some(Name::of_module(slot)));
    drain(&mut bench, slot);
    let db = bench.of("db");
    assert_eq!(db.phase, Phase::Pending);
    assert!(db.message.contains(&format!("volume data is on module-{slot}")), "{}", db.message);
    assert!(db.decision.filters.iter().any(|f| f == "volumes"));
    let module = Name::of_module(slot);
    bench.ask(Request::Cordon { module, cordoned: false, draining: false }).unwrap();
    bench.run(1000);
    assert_eq!(slot_of(&bench, "db"), slot);
    // Its size is taken of the module's disk, also when nobody has it.
    let disk = |bench: &Bench| {
        let key = format!("module-{slot}/disk");
        bench.core.resources().find(|r| r.key() == key).unwrap().used
    };
    assert_eq!(disk(&bench), 100 << 20);
    bench.ask(Request::Delete(vec![name("db")])).unwrap();
    bench.run(500);
    assert_eq!(disk(&bench), 100 << 20);
    bench.apply(vec![with("other", "data", "resources = { disk = '900MiB' }")]).unwrap();
    bench.run(500);
    assert_eq!(slot_of(&bench, "other"), slot);
    let module = bench.core.volumes().next().unwrap().volume.module.clone();
    assert_eq!(module, Some(Name::of_module(slot)), "the data is where it was");
}

#[test]
fn a_volume_that_is_too_large_for_a_module_is_not_begun_there() {
    let mut bench = Bench::new(&[0, 0]);
    let mut huge = volume("data", "class = 'local'");
    huge.size = model::Bytes(2 << 30);
    bench.ask(Request::ApplyAll(vec![huge], vec![with("db", "data", "")])).unwrap();
    bench.run(300);
    let db = bench.of("db");
    assert!(db.message.contains("volumes: ask 2048MiB of its disk, free 1024MiB"), "{}", db.message);
}

#[test]
fn a_chassis_volume_goes_along_and_its_app_moves_stop_first() {
    let mut bench = bench("chassis", "");
    let before = slot_of(&bench, "db");
    assert_ne!(before, 3, "module-3 has no [storage]");
    let id = bench.of("db").id.clone();
    drain(&mut bench, before);
    let after = slot_of(&bench, "db");
    assert!(after != before && after != 3, "module-{after}");
    let stopped = bench.core.events().any(|e| e.message.contains("stop first"));
    assert!(stopped && bench.of("db").id != id);
    // The only other module with a [storage] does not reach it any more.
    say(&mut bench, before, "10.44.0.9 does not answer", vec![]);
    let module = Name::of_module(before);
    bench.ask(Request::Cordon { module, cordoned: false, draining: false }).unwrap();
    drain(&mut bench, after);
    assert!(bench.of("db").message.contains("10.44.0.9 does not answer"), "{}", bench.of("db").message);
    say(&mut bench, before, "", vec![]);
    bench.run(500);
    assert_eq!(slot_of(&bench, "db"), before);
}

#[test]
fn a_second_app_waits_for_a_single_writer_volume() {
    let mut bench = bench("chassis", "");
    bench.apply(vec![with("reader", "data", "")]).unwrap();
    bench.run(500);
    let message = bench.of("reader").message.clone();
    assert!(message.contains("volume data is attached to db-1-1 on module-"), "{message}");
    bench.ask(Request::Delete(vec![name("db")])).unwrap();
    bench.run(500);
    assert!(bench.of("reader").is_ready());
}

#[test]
fn bad_requests_are_refused_whole_and_say_what_would_do() {
    let mut bench = bench("chassis", "");
    let mut refused = |request: Request, words: &str| {
        let error = bench.ask(request).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    };
    let apply = |app: AppSpec| Request::Apply(vec![app]);
    refused(apply(with("x", "nothing", "")), "there is no volume nothing; apply a [[volume]]");
    refused(apply(with("x", "data", "replicas = 2")), "access = \"shared\"");
    refused(Request::Scale(name("db"), 2), "single-writer");
    refused(apply(with("x", "data", "migration = { on_disconnect = 'keep' }")), "use \"stop\"");
    let local = volume("data", "class = 'local'");
    refused(
        Request::ApplyAll(vec![local], vec![]),
        "volume data: class: \"chassis\" cannot become \"local\"",
    );
    let twice = vec![volume("new", "class = 'local'"), volume("new", "class = 'local'")];
    refused(Request::ApplyAll(twice, vec![]), "appears twice");
    let half = Request::ApplyAll(vec![volume("new", "class = 'local'")], vec![with("x", "nothing", "")]);
    refused(half, "there is no volume nothing");
    refused(Request::DeleteVolumes(vec![name("data")]), "volume data is used by db");
    refused(Request::DeleteVolumes(vec![name("new")]), "there is no volume new");
    assert_eq!(bench.core.volumes().count(), 1);
    for slot in 1..=2 {
        bench.refit(slot, |m| m.storage.clear());
    }
    let error = bench.apply(vec![with("x", "data", "")]).unwrap_err().to_string();
    assert!(error.contains("no module has a storage module"), "{error}");
}

#[test]
fn data_is_kept_until_it_is_asked_for_and_erased_where_it_is() {
    let mut bench = bench("local", "");
    let slot = slot_of(&bench, "db");
    bench.ask(Request::Delete(vec![name("db")])).unwrap();
    bench.run(500);
    assert!(bench.erase.values().all(Vec::is_empty));
    bench.ask(Request::DeleteVolumes(vec![name("data")])).unwrap();
    bench.run(300);
    let key = bench.erase[&Name::of_module(slot)].first().cloned().unwrap();
    let going = bench.ask(Request::ApplyAll(vec![volume("data", "class = 'local'")], vec![]));
    assert!(going.unwrap_err().to_string().contains("is being deleted"));
    let seen = |key| VolumeSeen {
        key,
        used: model::Bytes(0),
        quota: String::new(),
        erased: true,
        message: String::new(),
    };
    // An older volume of that name is none of its business.
    let older = model::VolumeKey { created: key.created - 1, ..key.clone() };
    say(&mut bench, slot, "", vec![seen(older)]);
    assert_eq!(bench.core.volumes().count(), 1);
    say(&mut bench, slot, "", vec![seen(key)]);
    assert_eq!(bench.core.volumes().count(), 0);
    assert!(bench.erase.values().all(Vec::is_empty));
}

#[test]
fn an_app_s_own_volumes_go_with_it_when_asked() {
    let mut bench = bench("chassis", "");
    bench.ask(Request::ApplyAll(vec![volume("new", "class = 'local'")], vec![])).unwrap();
    let both = spec("two", "volumes = [{ name = 'data', path = '/a' }, { name = 'new', path = '/b' }]");
    bench.apply(vec![both]).unwrap();
    let reply = bench.ask(Request::DeleteWithVolumes(vec![name("two")])).unwrap();
    assert_eq!(reply.lines, ["app two deleted", "volume data kept: app db mounts it", "volume new deleted"]);
    bench.run(300);
    assert_eq!(bench.core.volumes().count(), 1, "the one that was never used is gone at once");
}
