use super::*;

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

/// A module of the paper's example: 8 accelerators (in thousandths), 64 cores (in thousandths), 100 of disk and memory.
const MODULE: Vector = PerResource { cpu: 64_000, gpu: 8000, disk: 100, memory: 100 };

#[test]
fn equation_1_is_1_when_empty_0_at_the_thresholds_and_weighs_each_resource() {
    let half = PerResource { cpu: Some(0.5), gpu: Some(0.5), disk: Some(0.5), memory: Some(0.5) };
    let policy = UnitPolicy { threshold: half, ..UnitPolicy::default() };
    assert!(near(balance(&policy, &MODULE, &Vector::default()), 1.0));
    let used = Vector { cpu: 32_000, gpu: 4000, disk: 50, memory: 50 };
    assert!(near(balance(&policy, &MODULE, &used), 0.0));
    // Without thresholds the same load is half the way.
    assert!(near(balance(&UnitPolicy::default(), &MODULE, &used), 0.5));
    let weights = PerResource { cpu: 0.0, gpu: 1.0, disk: 0.0, memory: 0.0 };
    let gpu_alone = UnitPolicy { balance: weights, ..UnitPolicy::default() };
    assert!(near(
        balance(&gpu_alone, &MODULE, &Vector { cpu: 64_000, gpu: 2000, ..Vector::default() }),
        0.75
    ));
}

#[test]
fn a_threshold_filters_what_would_push_past_it_and_only_what_is_asked_for() {
    let threshold = PerResource { gpu: Some(0.5), cpu: Some(0.25), ..PerResource::default() };
    let policy = UnitPolicy { threshold, ..UnitPolicy::default() };
    let used = Vector { cpu: 15_000, gpu: 2000, ..Vector::default() };
    let asks = |cpu, gpu| overload(&policy, &MODULE, &used, &Vector { cpu, gpu, ..Vector::default() });
    assert_eq!(asks(1000, 2000), None, "just at both thresholds");
    assert_eq!(asks(1000, 2001).map(|(name, ..)| name), Some("gpu"));
    assert_eq!(asks(1001, 0).map(|(name, ..)| name), Some("cpu"));
    let over = Vector { cpu: 20_000, ..used };
    assert_eq!(overload(&policy, &MODULE, &over, &Vector { gpu: 1000, ..Vector::default() }), None);
}

#[test]
fn equations_2_to_9_give_what_a_pencil_gives() {
    // Used 2 of 8 accelerators and 4 of 64 cores; asks for the same again; memory 10 of 100 each; no disk.
    let used = Vector { cpu: 4000, gpu: 2000, disk: 0, memory: 10 };
    let told = score(&UnitPolicy::default(), &MODULE, &used, &used);
    assert!(near(told.cpu, 12.5) && near(told.gpu, 50.0) && near(told.memory, 20.0) && near(told.disk, 0.0));
    // Asked (1/16, 1/4, 0, 1/10); free (15/16, 3/4, 1, 9/10).
    let dot = 15.0 / 256.0 + 3.0 / 16.0 + 9.0 / 100.0;
    let asked = (1.0 / 256.0 + 1.0 / 16.0 + 1.0 / 100.0_f64).sqrt();
    let free = (225.0 / 256.0 + 9.0 / 16.0 + 1.0 + 81.0 / 100.0_f64).sqrt();
    let matching = 100.0 * dot / (asked * free);
    assert!(near(told.matching, matching), "{told:?}");
    assert!(near(told.total, (12.5 + 20.0 + 0.0 + 4.0 * 50.0 + 4.0 * matching) / 11.0), "{told:?}");
}

#[test]
fn nothing_asked_and_nothing_there_score_nothing_and_not_a_number_never() {
    let zero = Vector::default();
    assert_eq!(score(&UnitPolicy::default(), &zero, &zero, &zero), UnitScore::default());
    let no_gpu = Vector { gpu: 0, ..MODULE };
    assert!(score(&UnitPolicy::default(), &no_gpu, &zero, &MODULE).total.is_finite());
    assert!(near(balance(&UnitPolicy::default(), &no_gpu, &zero), 1.0));
}

#[test]
fn a_splinter_is_some_but_too_few() {
    let policy = UnitPolicy { min_gpu: Some(2), ..UnitPolicy::default() };
    assert_eq!([0, 1, 2, 3].map(|left| splinters(&policy, left)), [false, true, false, false]);
    assert!(!splinters(&UnitPolicy::default(), 1));
}

#[test]
fn a_policy_that_means_nothing_is_refused_with_its_key() {
    let fine = UnitPolicy::default();
    assert_eq!(fine.check(), Ok(()));
    let each = |cpu, gpu| PerResource { cpu, gpu, disk: 0.0, memory: 0.0 };
    let threshold =
        |gpu| UnitPolicy { threshold: PerResource { gpu: Some(gpu), ..PerResource::default() }, ..fine };
    let nothing = ScoreWeights { cpu: 0.0, memory: 0.0, disk: 0.0, gpu: 0.0, matching: 0.0 };
    let cases = [
        (UnitPolicy { balance: each(0.5, 0.4), ..fine }, "balance"),
        (UnitPolicy { balance: each(f64::NAN, 1.0), ..fine }, "balance.cpu"),
        (UnitPolicy { balance: each(1.5, -0.5), ..fine }, "balance.gpu"),
        (threshold(0.0), "threshold.gpu"),
        (threshold(1.0), "threshold.gpu"),
        (threshold(f64::NAN), "threshold.gpu"),
        (UnitPolicy { share: 0.0, ..fine }, "share"),
        (UnitPolicy { share: 1.1, ..fine }, "share"),
        (UnitPolicy { share: f64::NAN, ..fine }, "share"),
        (UnitPolicy { min_balance: Some(f64::INFINITY), ..fine }, "min_balance"),
        (UnitPolicy { score: nothing, ..fine }, "score"),
        (UnitPolicy { score: ScoreWeights { matching: -1.0, ..nothing }, ..fine }, "score.match"),
    ];
    for (policy, key) in cases {
        assert_eq!(policy.check().unwrap_err().key, key, "{policy:?}");
    }
}
