//! What a move would be like, in words, for a person who asks before it.

use model::units;
use protocol::forecast::Forecast;
use protocol::pages::PAGE_BYTES;

/// One sentence. Of the time in which the destination gets ready, and of what comes after the guest runs there, it says nothing.
pub fn in_words(forecast: &Forecast) -> String {
    let per_s = |bytes| units::Bytes(bytes);
    let dirties = per_s(forecast.dirty_pages_per_s * PAGE_BYTES as u64);
    let [least, most] = [forecast.stun_least, forecast.stun_max].map(|stun| stun.micros().div_ceil(1_000));
    if let Some((took, stun)) = forecast.moved {
        let (took, stun) = (took.micros().div_ceil(1_000_000), stun.micros().div_ceil(1_000));
        return format!("~{took} s, stun ~{stun} ms ({most} ms accepted); it dirties {dirties}/s, and the rounds end");
    }
    if forecast.stun_least > forecast.stun_max {
        return format!("the stun would take ~{least} ms with no page left to send, and {most} ms are accepted");
    }
    let carries = per_s(forecast.bandwidth_bytes_per_s);
    format!(
        "it dirties {dirties}/s, the link carries {carries}/s: the rounds do not end unless the vCPUs that dirty are slowed, \
         and then with a stun of {most} ms at most"
    )
}

#[cfg(test)]
mod tests {
    use protocol::time::Duration;

    use super::*;

    #[test]
    fn who_asks_before_a_move_is_told_how_long_it_takes_its_stun_and_whether_the_rounds_end() {
        let ms = Duration::from_millis;
        let forecast = Forecast {
            moved: Some((ms(6_200), ms(41))),
            stun_least: ms(30),
            stun_max: ms(300),
            bandwidth_bytes_per_s: 100 << 20,
            dirty_pages_per_s: 3_072,
        };
        let calm = in_words(&forecast);
        assert_eq!(calm, "~7 s, stun ~41 ms (300 ms accepted); it dirties 12 MiB/s, and the rounds end");
        let wild = in_words(&Forecast { moved: None, dirty_pages_per_s: 128_000, ..forecast });
        assert!(
            wild.starts_with("it dirties 500 MiB/s, the link carries 100 MiB/s: the rounds do not end unless"),
            "{wild}"
        );
        let tight = in_words(&Forecast { moved: None, stun_max: ms(20), ..forecast });
        assert_eq!(tight, "the stun would take ~30 ms with no page left to send, and 20 ms are accepted");
    }
}
