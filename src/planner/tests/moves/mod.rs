//! Planned moves, services, updates and pre-emption.

use super::*;
use model::Instance;

/// A changed app, whose new image may never get ready.
pub(super) fn update(world: &mut World, number: u8, version: u8, bad: bool) {
    let name = format!("app-{number}");
    let Some(app) = world.core.apps().find(|app| app.name().as_str() == name) else { return };
    let mut spec = app.spec.clone();
    spec.image =
        format!("registry.spacecloud:5000/{}:{version}", if bad { "bad" } else { "demo" }).parse().unwrap();
    drop(world.request(Request::Apply(vec![spec])));
}

fn web(more: &str) -> AppSpec {
    spec("web", &format!("ports = [{{ container = 8080, service = 80 }}]\n{more}"))
}

fn apply(world: &mut World, spec: AppSpec) {
    world.request(Request::Apply(vec![spec])).unwrap();
}

fn image(spec: AppSpec, image: &str) -> AppSpec {
    AppSpec { image: format!("registry.spacecloud:5000/{image}").parse().unwrap(), ..spec }
}

fn instances(world: &World) -> Vec<&Instance> {
    world.core.instances().collect()
}

fn event<'a>(world: &'a World, reason: &str) -> Option<&'a str> {
    world.core.events().find(|e| e.reason == reason).map(|e| e.message.as_str())
}

/// Runs, and asserts after each step that every module has a place to send a new connection to.
fn run_without_gap(world: &mut World, span: u64) {
    for _ in 0..span / World::STEP {
        world.run(World::STEP);
        for agent in world.agents.values() {
            assert!(agent.table.endpoints().any(|e| !e.draining), "a gap on {}", agent.module.name);
        }
    }
}

#[test]
fn a_service_keeps_its_address_and_others_get_others() {
    let mut world = World::new(2);
    let others = (0..3).map(|n| spec(&format!("s-{n}"), "ports = [{ container = 1, service = 1 }]"));
    let apps: Vec<AppSpec> = others.chain([web("")]).collect();
    world.request(Request::Apply(apps)).unwrap();
    let address = |world: &World, name: &str| {
        world.core.apps().find(|app| app.name().as_str() == name).unwrap().service_address.clone()
    };
    assert_eq!(address(&world, "s-0"), "10.46.0.1");
    assert_eq!(address(&world, "web"), "10.46.0.4");
    apply(&mut world, web("replicas = 2"));
    world.crash_server();
    assert_eq!(address(&world, "web"), "10.46.0.4");
    world.request(Request::Delete(vec!["s-1".parse().unwrap()])).unwrap();
    apply(&mut world, spec("late", "ports = [{ container = 1, service = 1 }]"));
    assert_eq!(address(&world, "late"), "10.46.0.5", "a freed address rests as long as there are others");
    apply(&mut world, spec("web", ""));
    assert_eq!(address(&world, "web"), "");
}

#[test]
fn more_services_than_addresses_are_refused_whole() {
    let mut world = World::new(1);
    world.core = Core::load(vec![], world.timing, world.now()).with_services("10.9.0.0/30".parse().unwrap());
    let of = |n: usize| spec(&format!("s-{n}"), "ports = [{ container = 1, service = 1 }]");
    let refused = world.request(Request::Apply((0..3).map(of).collect())).unwrap_err();
    assert!(refused.to_string().contains("no service address is left in 10.9.0.0/30"), "{refused}");
    assert_eq!(world.core.apps().count(), 0);
    world.request(Request::Apply((0..2).map(of).collect())).unwrap();
}

#[test]
fn a_published_port_belongs_to_one_app() {
    let mut world = World::new(2);
    apply(&mut world, spec("a", "ports = [{ container = 1, service = 1, host = 8000 }]\nreplicas = 4"));
    let refused = world.request(Request::Apply(vec![spec("b", "ports = [{ container = 1, host = 8000 }]")]));
    assert!(refused.unwrap_err().to_string().contains("used by a too"));
    world.run(1000);
    assert!(world.core.instances().all(Instance::is_ready), "replicas do not compete for a published port");
}

#[test]
fn tcp_and_udp_have_each_their_own_ports() {
    let mut world = World::new(1);
    let on = |protocol: &str, more: &str| {
        format!("ports = [{{ container = 53, protocol = '{protocol}', host = 53{more} }}]")
    };
    apply(&mut world, spec("a", &on("udp", "")));
    apply(&mut world, spec("b", &on("tcp", "")));
    apply(&mut world, spec("c", &on("udp", "")));
    world.run(1000);
    let with =
        |app: &str| instances(&world).into_iter().filter(|i| i.spec.name.as_str() == app).collect::<Vec<_>>();
    assert!(with("a")[0].is_ready() && with("b")[0].is_ready());
    assert!(with("c").iter().all(|i| i.module.is_none()));
    let why = format!("{:?}", with("c")[0].decision);
    assert!(why.contains("host port 53/udp is taken"), "{why}");
    let held: Vec<String> =
        world.core.resources().map(|r| r.resource.to_string()).filter(|r| r.contains("port")).collect();
    assert_eq!(held, ["port-53", "port-53/udp"]);
    // Published by a service: on every module.
    let refused = world.request(Request::Apply(vec![spec("d", &on("udp", ", service = 53"))]));
    assert!(refused.unwrap_err().to_string().contains("host port 53/udp is used by a too"));
    // One number of both protocols at one address leads to each one's own port.
    let both = "ports = [{ container = 1, service = 7 }, { container = 2, protocol = 'udp', service = 7 }]";
    apply(&mut world, spec("e", both));
    world.run(1000);
    let table = world.core.services();
    let ports: Vec<_> = table.ports().map(|p| (p.port, p.protocol, p.endpoints[0].port)).collect();
    assert_eq!(ports, [(7, model::Protocol::Tcp, 1), (7, model::Protocol::Udp, 2)]);
}

#[test]
fn a_move_drains_what_it_leaves() {
    let mut world = World::new(3);
    apply(&mut world, web("migration = { drain = '2s' }"));
    world.run(1000);
    let old = instances(&world)[0].clone();
    let from = old.module.clone().unwrap();
    world.agents.get_mut(&from).unwrap().connections.insert(old.id.clone(), 3);
    world.request(Request::Cordon { module: from.clone(), cordoned: true, draining: true }).unwrap();
    run_without_gap(&mut world, 1500);
    let still = world.core.instances().find(|i| i.id == old.id).unwrap();
    assert!(still.draining && !still.is_stopping(), "its connections go on");
    assert!(world.agents.values().all(|a| a.table.endpoints().all(|e| e.instance != old.id || e.draining)));
    run_without_gap(&mut world, 2000);
    assert_eq!(instances(&world).len(), 1, "a limit is a limit");
    assert!(event(&world, "DrainLimit").unwrap().contains("still had 3 connections after 2s"));

    // Nobody connected: no waiting for the limit.
    let (old, from) = (instances(&world)[0].id.clone(), instances(&world)[0].module.clone().unwrap());
    apply(&mut world, web("migration = { drain = '1h' }"));
    run_without_gap(&mut world, 2000);
    assert!(instances(&world).iter().all(|i| i.id != old), "the update replaced it");
    let module = instances(&world)[0].module.clone().unwrap();
    world.request(Request::Cordon { module: module.clone(), cordoned: true, draining: true }).unwrap();
    world.request(Request::Cordon { module: from, cordoned: false, draining: false }).unwrap();
    run_without_gap(&mut world, 2500);
    assert_eq!(instances(&world).len(), 1);
    assert_ne!(instances(&world)[0].module.as_ref(), Some(&module));
}

#[test]
fn an_update_keeps_the_service_up_and_the_bounds() {
    for (surge, unavailable, most) in [(1, 0, 4), (2, 0, 5), (0, 1, 3), (1, 1, 4)] {
        let mut world = World::new(3);
        let update = format!("replicas = 3\nupdate = {{ surge = {surge}, max_unavailable = {unavailable} }}");
        apply(&mut world, web(&update));
        world.run(1000);
        apply(&mut world, image(web(&update), "demo:2"));
        for _ in 0..200 {
            run_without_gap(&mut world, World::STEP);
            let up = world.core.instances().filter(|i| !i.is_leaving()).count();
            let ready = world.core.instances().filter(|i| i.is_ready() && !i.draining).count();
            assert!(up <= most, "{up} instances with surge {surge}");
            assert!(ready >= 3 - unavailable, "{ready} ready with max_unavailable {unavailable}");
        }
        assert!(world.core.instances().all(|i| i.spec.image.as_str().ends_with("demo:2") && i.is_ready()));
        assert_eq!(event(&world, "Updated"), Some("revision 2 runs everywhere"));
    }
}

#[test]
fn a_bad_update_is_rolled_back_and_says_why() {
    for planned in ["make-before-break", "stop-first"] {
        let mut world = World::new(3);
        let rest =
            format!("replicas = 3\nupdate = {{ within = '2s' }}\nmigration = {{ planned = '{planned}' }}");
        apply(&mut world, web(&rest));
        world.run(1000);
        let good: Vec<InstanceId> = instances(&world).iter().map(|i| i.id.clone()).collect();
        apply(&mut world, image(web(&rest), "bad:2"));
        run_without_gap(&mut world, 8000);
        assert!(world.core.instances().all(|i| i.spec.image.as_str().ends_with("demo:1") && i.is_ready()));
        assert_eq!(instances(&world).len(), 3);
        let why = event(&world, "RolledBack").unwrap();
        assert!(why.contains("revision 2 rolled back to 1") && why.contains("was not ready in 2s"), "{why}");
        assert!(world.core.apps().next().unwrap().note.contains("rolled back"));
        if planned == "make-before-break" {
            let now: Vec<InstanceId> = instances(&world).iter().map(|i| i.id.clone()).collect();
            assert_eq!(now, good, "nothing that ran was touched");
        }
        // The next change gets a revision of its own.
        apply(&mut world, image(web(&rest), "demo:3"));
        world.run(8000);
        assert_eq!(event(&world, "Updated"), Some("revision 3 runs everywhere"));
    }
}

#[test]
fn a_crash_of_the_server_in_the_middle_of_an_update_changes_nothing_of_its_end() {
    for step in 0..40 {
        let mut world = World::new(3);
        apply(&mut world, web("replicas = 2"));
        world.run(1000);
        apply(&mut world, image(web("replicas = 2"), "demo:2"));
        run_without_gap(&mut world, step * World::STEP);
        world.crash_server();
        run_without_gap(&mut world, 6000);
        assert!(world.core.instances().all(|i| i.spec.image.as_str().ends_with("demo:2") && i.is_ready()));
        assert_eq!(instances(&world).len(), 2, "crash at step {step}");
        assert!(event(&world, "Updated").is_some());
    }
}

/// The server dies at every step of a move, when it has committed and before anybody hears of it.
#[test]
fn a_server_that_dies_at_any_step_of_a_move_takes_it_up_again() {
    for planned in ["make-before-break", "stop-first"] {
        let mut died = 0;
        for steps in 0..200 {
            let mut world = World::new(2);
            apply(&mut world, web(&format!("migration = {{ planned = '{planned}', drain = '100ms' }}")));
            world.run(1000);
            let from = instances(&world)[0].module.clone().unwrap();
            world.dies_in = Some(steps);
            drop(world.request(Request::Cordon { module: from.clone(), cordoned: true, draining: true }));
            world.run(1500);
            died += u32::from(world.dies_in.is_none());
            // An operator who got no answer asks again.
            world.dies_in = None;
            drop(world.request(Request::Cordon { module: from.clone(), cordoned: true, draining: true }));
            world.run(3000);
            let [only] = instances(&world)[..] else {
                panic!("{planned}, {steps} steps: {:?}", instances(&world))
            };
            assert!(
                only.is_ready() && only.module.as_ref() != Some(&from),
                "{planned}, {steps} steps: {only:?}"
            );
        }
        assert!(died > 50, "{died}");
    }
}

#[test]
fn more_important_instances_take_the_room_of_less_important_ones() {
    let mut world = World::new(2);
    let of = |name: &str, priority: i32, more: &str| {
        spec(name, &format!("priority = {priority}\nresources = {{ memory = '400MiB' }}\n{more}"))
    };
    let apps = vec![of("low", 0, "replicas = 2"), of("mid", 1, ""), of("high", 2, "")];
    world.request(Request::Apply(apps)).unwrap();
    world.run(1000);
    assert!(world.core.instances().all(Instance::is_ready));
    let high = |world: &World| {
        world.core.instances().find(|i| i.spec.name.as_str() == "high").unwrap().module.clone()
    };
    // The module with the most important one is lost: there is room for two of four.
    let lost = high(&world).unwrap();
    world.cut(if lost == Name::of_module(1) { 1 } else { 2 }, true);
    world.run(4000);
    let mut running: Vec<(String, Phase)> =
        world.core.instances().map(|i| (i.id.replica().to_string(), i.phase)).collect();
    running.sort();
    let named = |name: &str, phase: Phase| (name.to_owned(), phase);
    assert_eq!(
        running,
        [
            named("high/1", Phase::Ready),
            named("low/1", Phase::Pending),
            named("low/2", Phase::Pending),
            named("mid/1", Phase::Ready)
        ]
    );
    for pending in world.core.instances().filter(|i| i.phase == Phase::Pending) {
        assert!(pending.message.contains("memory: asks 400MiB, free"), "{}", pending.message);
    }
    assert!(event(&world, "Preempted").is_some());
    world.cut(1, false);
    world.cut(2, false);
    world.run(20_000);
    assert!(world.core.instances().all(Instance::is_ready), "there is room for all again");
}

#[test]
fn images_are_pulled_ahead_on_two_more_modules() {
    let mut world = World::new(5);
    apply(&mut world, spec("a", ""));
    world.run(1000);
    let here = instances(&world)[0].module.clone().unwrap();
    let orders = std::cell::RefCell::new(BTreeMap::new());
    for slot in 1..=5 {
        let (hello, now) = (Event::Hello(Box::new(module(slot)), vec![]), world.now());
        let (_, output) = world.core.clone().step(hello, now).unwrap();
        let name = Name::of_module(slot);
        orders.borrow_mut().insert(name.clone(), output.orders[&name].images.len());
    }
    let orders = orders.into_inner();
    assert_eq!(orders[&here], 0, "where it runs it is anyway");
    assert_eq!(orders.values().sum::<usize>(), 2);
}

#[test]
fn endpoints_on_a_silent_module_get_nothing_new_while_there_are_others() {
    let mut world = World::new(3);
    apply(&mut world, web("replicas = 3"));
    world.run(1000);
    world.cut(2, true);
    world.run(world.timing.suspect.0 + 3 * World::STEP);
    let table = &world.agents[&Name::of_module(1)].table;
    let silent: Vec<bool> =
        table.endpoints().filter(|e| e.module == Name::of_module(2)).map(|e| e.draining).collect();
    assert_eq!(silent, [true], "before the lease is over");
}

#[test]
fn a_bad_update_of_what_was_never_ready_is_rolled_back_too() {
    let mut world = World::new(3);
    apply(&mut world, serving(3, ""));
    update(&mut world, 3, 0, true);
    world.run(10_000);
    assert!(instances(&world)[0].is_ready() && instances(&world)[0].revision == 1);
    assert_eq!(event(&world, "Updated"), None);
}

/// An update that came while nothing ran was never seen to work.
#[test]
fn what_was_changed_while_scaled_to_nothing_is_not_gone_back_to() {
    let mut world = World::new(3);
    apply(&mut world, serving(4, ""));
    world.run(2000);
    update(&mut world, 4, 0, true);
    world.request(Request::Scale("app-4".parse().unwrap(), 0)).unwrap();
    world.run(1000);
    apply(&mut world, serving(4, ""));
    update(&mut world, 4, 0, true);
    world.run(20_000);
    assert!(instances(&world).iter().all(|i| i.is_ready()) && instances(&world).len() == 1);
}

/// What stops first must start where the plan said, or it would come back to where it was, for ever.
#[test]
fn a_stop_first_rebalance_ends() {
    let mut world = World::new(3);
    for (number, replicas) in [(0, 2), (5, 3), (1, 1)] {
        apply(&mut world, serving(number, &format!("replicas = {replicas}")));
    }
    let drain = |draining: bool| Request::Cordon { module: Name::of_module(1), cordoned: draining, draining };
    world.request(drain(true)).unwrap();
    world.run(3000);
    world.request(drain(false)).unwrap();
    world.run(10_000);
    let before: Vec<InstanceId> = instances(&world).iter().map(|i| i.id.clone()).collect();
    assert!(world.core.instances().all(Instance::is_ready));
    world.run(10_000);
    let after: Vec<InstanceId> = instances(&world).iter().map(|i| i.id.clone()).collect();
    assert_eq!(before, after);
}
