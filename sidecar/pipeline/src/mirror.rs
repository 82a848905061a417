//! Which mirrors get a copy of a request: RequestMirror of the Gateway API.

use std::sync::Arc;

use sluice_snapshot::ConfigError;

use crate::program::{Backend, Mirror};

/// Where a copy goes; none: this request is not of the share. `random` decides.
pub fn choose(mirror: &Mirror, random: u32) -> Option<Result<&Arc<Backend>, &ConfigError>> {
    let point = (u64::from(random) * u64::from(mirror.denominator)) >> 32;
    (point < u64::from(mirror.numerator)).then_some(mirror.backend.as_ref())
}

#[cfg(test)]
mod tests {
    use sluice_snapshot::ConfigReason;

    use super::*;

    fn share(numerator: u32, denominator: u32) -> usize {
        let backend = Err(ConfigError::new(ConfigReason::BackendNotFound, "gone"));
        let mirror = Mirror {
            backend,
            numerator,
            denominator,
        };
        let draws = (0..1000_u32).map(|step| step * (u32::MAX / 999));
        draws
            .filter(|draw| choose(&mirror, *draw).is_some())
            .count()
    }

    #[test]
    fn the_share_is_what_was_asked() {
        assert_eq!(share(1, 1), 1000);
        assert_eq!(share(0, 1), 0);
        assert_eq!(share(100, 100), 1000);
        for (numerator, denominator) in [(1, 2), (1, 4), (42, 100), (999, 1000)] {
            let expected = 1000 * numerator / denominator;
            let found = share(numerator, denominator);
            assert!(
                found.abs_diff(expected as usize) <= 1,
                "{found} of {numerator}/{denominator}"
            );
        }
    }
}
