//! The numbers of the unit level for one app or task: its own where it gives them, the cluster's for the rest.

use crate::{
    Refusal,
    core::Core,
    pool::unit::{PerResource, PolicyError, ScoreWeights, UnitPolicy},
};
use model::{AppSpec, ByResource, ByScore, Decimal, Placement};

/// `own` before `common`, key by key.
fn merged(common: &UnitPolicy, own: &Placement) -> UnitPolicy {
    let ByResource { cpu, gpu, disk, memory } = own.balance;
    let number = |own: Option<Decimal>, common: f64| own.map_or(common, Decimal::value);
    let balance = PerResource {
        cpu: number(cpu, common.balance.cpu),
        gpu: number(gpu, common.balance.gpu),
        disk: number(disk, common.balance.disk),
        memory: number(memory, common.balance.memory),
    };
    let ByResource { cpu, gpu, disk, memory } = own.threshold;
    let limit = |own: Option<Decimal>, common: Option<f64>| own.map(Decimal::value).or(common);
    let threshold = PerResource {
        cpu: limit(cpu, common.threshold.cpu),
        gpu: limit(gpu, common.threshold.gpu),
        disk: limit(disk, common.threshold.disk),
        memory: limit(memory, common.threshold.memory),
    };
    let ByScore { cpu, memory, disk, gpu, matching } = own.score;
    let score = ScoreWeights {
        cpu: number(cpu, common.score.cpu),
        memory: number(memory, common.score.memory),
        disk: number(disk, common.score.disk),
        gpu: number(gpu, common.score.gpu),
        matching: number(matching, common.score.matching),
    };
    UnitPolicy {
        balance,
        threshold,
        share: number(own.share, common.share),
        min_balance: limit(own.min_balance, common.min_balance),
        max_gpu: own.max_gpu.or(common.max_gpu),
        min_gpu: own.min_gpu.or(common.min_gpu),
        score,
    }
}

impl Core {
    /// How the paper's unit level weighs, filters and reserves, where an app or task does not say otherwise.
    pub fn set_policy(&mut self, policy: UnitPolicy) {
        self.policy = policy;
    }

    /// The numbers that count for `spec`.
    fn policy_of(&self, spec: &AppSpec) -> Result<UnitPolicy, PolicyError> {
        let policy = merged(&self.policy, &spec.placement);
        policy.check().map(|()| policy)
    }

    /// Numbers of its own that do not go together, or not with the cluster's.
    pub(crate) fn refuse_weighing(&self, spec: &AppSpec) -> Result<(), Refusal> {
        let refusal = |error: PolicyError| Refusal::Weighing { app: spec.name.clone(), error };
        self.policy_of(spec).map(drop).map_err(refusal)
    }

    /// The numbers to decide by, and what the explanation says of them. When the cluster's were changed so that those of
    /// the app do not go with them any more, the cluster's alone count.
    pub(crate) fn weighing(&self, spec: &AppSpec) -> (UnitPolicy, String) {
        let own = spec.placement.weighing();
        if own.is_empty() {
            return (self.policy, String::new());
        }
        let own = own.join(", ");
        match self.policy_of(spec) {
            Ok(policy) => (policy, format!("its own {own}; the rest is the cluster's")),
            Err(error) => {
                (self.policy, format!("the cluster's; its own {own} cannot be kept: placement.{error}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Request,
        pool::unit::{PerResource, UnitPolicy},
        testing::{Bench, spec},
    };
    use model::Phase;

    fn asking(gpu: u32, placement: &str) -> String {
        format!("resources = {{ gpu = {gpu} }}\nplacement = {{ {placement} }}")
    }

    #[test]
    fn a_task_s_own_threshold_filters_and_is_named() {
        let mut bench = Bench::new(&[4, 4]);
        bench.apply(vec![spec("a", &asking(2, "threshold = { gpu = 0.6 }"))]).unwrap();
        bench.run(300);
        assert_eq!(bench.place("a"), "module-1 0 1");
        // Another one there would load it to 0.75.
        bench.apply(vec![spec("b", &asking(1, "threshold = { gpu = 0.6 }"))]).unwrap();
        bench.apply(vec![spec("c", &format!("strategy = 'multilevel'\n{}", asking(1, "")))]).unwrap();
        bench.run(300);
        assert_eq!(bench.place("b"), "module-2 0");
        assert_eq!(bench.place("c"), "module-1 2", "without a threshold the fullest takes it");
        let decision = &bench.of("b").decision;
        assert_eq!(decision.policy, "its own threshold.gpu 0.6; the rest is the cluster's");
        let failed = &decision.candidates[0].failed[0];
        assert_eq!(
            (failed.filter.as_str(), failed.why.as_str()),
            ("threshold", "threshold: gpu would be loaded to 0.750, above 0.6")
        );
        assert!(bench.of("c").decision.policy.is_empty());
        // Nothing would be left of it anywhere.
        bench.apply(vec![spec("d", &asking(3, "threshold = { gpu = 0.6 }"))]).unwrap();
        bench.run(300);
        assert_eq!(bench.of("d").phase, Phase::Pending);
        assert!(bench.of("d").message.contains("above 0.6"), "{}", bench.of("d").message);
    }

    #[test]
    fn own_weights_share_and_reserve_decide() {
        let mut bench = Bench::new(&[4, 4]);
        let multilevel = |more: &str| format!("strategy = 'multilevel'\n{more}");
        bench.apply(vec![spec("a", &multilevel(&asking(1, "")))]).unwrap();
        bench.run(300);
        assert_eq!(bench.place("a"), "module-1 0");
        // The better half by balance is the empty one.
        bench.apply(vec![spec("b", &asking(1, "share = 0.5"))]).unwrap();
        bench.run(300);
        assert_eq!(bench.place("b"), "module-2 0");
        // Alike now; one that must not leave a splinter of two finds no place but for two.
        bench.apply(vec![spec("c", &asking(1, "min_gpu = 3"))]).unwrap();
        bench.run(300);
        assert_eq!(bench.of("c").phase, Phase::Pending);
        bench.apply(vec![spec("d", &asking(3, "max_gpu = 2"))]).unwrap();
        bench.run(300);
        assert_eq!(bench.place("d"), "module-1 1 2 3");
        let free = bench.core.events().filter(|e| e.reason == "Reserve").count();
        bench.apply(vec![spec("e", &asking(2, "max_gpu = 2"))]).unwrap();
        bench.run(300);
        assert_eq!(bench.core.events().filter(|e| e.reason == "Reserve").count(), free + 1);
    }

    #[test]
    fn numbers_that_do_not_go_together_are_refused() {
        let mut bench = Bench::new(&[4]);
        for (own, told) in [
            ("balance = { cpu = 0.5 }", "a: placement.balance: the weights sum to 1.25; they must sum to 1"),
            (
                "score = { cpu = 0, gpu = 0, memory = 0, disk = 0, match = 0 }",
                "a: placement.score: the weights sum to nothing",
            ),
        ] {
            let refusal = bench.apply(vec![spec("a", &asking(1, own))]).unwrap_err().to_string();
            assert!(refusal.starts_with(told), "{refusal}");
        }
        let own = "balance = { cpu = 0.1, memory = 0.1, disk = 0.1, gpu = 0.7 }, threshold = { cpu = 0.9 }";
        bench.apply(vec![spec("a", &asking(1, own))]).unwrap();
    }

    #[test]
    fn the_cluster_s_numbers_count_when_its_own_do_not_go_with_them_any_more() {
        let mut bench = Bench::new(&[4]);
        let cordon =
            |cordoned| Request::Cordon { module: model::Name::of_module(1), cordoned, draining: false };
        bench.ask(cordon(true)).unwrap();
        bench.apply(vec![spec("a", &asking(1, "balance = { cpu = 0.1, gpu = 0.4 }"))]).unwrap();
        let balance = PerResource { cpu: 0.5, gpu: 0.5, disk: 0.0, memory: 0.0 };
        bench.core.set_policy(UnitPolicy { balance, ..UnitPolicy::default() });
        bench.ask(cordon(false)).unwrap();
        assert_eq!(bench.place("a"), "module-1 0");
        let words = &bench.of("a").decision.policy;
        assert!(
            words.starts_with("the cluster's; its own balance.cpu 0.1, balance.gpu 0.4 cannot be kept"),
            "{words}"
        );
    }
}
