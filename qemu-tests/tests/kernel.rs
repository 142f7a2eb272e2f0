//! The kernel features against a real kernel's Kconfig: nothing that a fragment asks for may get lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use spacesim::image::kernel::{self, Arch};
use spacesim::image::{ImageError, default_cache};

#[test]
fn every_option_survives_on_both_architectures_and_docker_lacks_nothing() {
    let cache = default_cache().unwrap();
    for arch in [Arch::X86_64, Arch::Arm64] {
        let configured =
            kernel::check(&cache, arch, &arch.fragments()).unwrap_or_else(|e| panic!("{arch:?}: {e}"));
        eprintln!("{}: all {} options survive on the default configuration", arch.name(), configured.asked);
        assert!(configured.asked > 200, "only {} options were asked for", configured.asked);
        assert_eq!(
            kernel::moby_missing(&configured.text),
            [""; 0],
            "Docker requires these on {}",
            arch.name()
        );
    }
}

#[test]
fn an_option_that_does_not_exist_or_cannot_be_is_named() {
    let cache = default_cache().unwrap();
    let with = |text: &str| {
        let mut fragments = Arch::X86_64.fragments();
        fragments.push(("extra.cfg".to_owned(), text.to_owned()));
        kernel::check(&cache, Arch::X86_64, &fragments).unwrap_err()
    };
    let error = with("CONFIG_VTEH=y\n");
    assert!(
        matches!(&error, ImageError::NoSuchOption { options } if options == "extra.cfg: CONFIG_VTEH"),
        "{error}"
    );
    // It exists, but not together with PREEMPT_RT.
    let error = with("CONFIG_PREEMPT_VOLUNTARY=y\n");
    assert!(matches!(&error, ImageError::Options { lacking } if lacking.contains("PREEMPT")), "{error}");
}
