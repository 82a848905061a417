//! The store's side of sharing a bucket: the script with its arithmetic, what goes in and comes out, and a model of it
//! in Rust, which the tests run. When and for how much it is asked is the business of [`super::Lease`].

/// The Redis script (5.0 or later: it replicates effects). One key: the bucket. Arguments: those of [`Request::args`].
///
/// The bucket is the text `<at> <debt> <token>`: microseconds of the store's clock, units owed then, units of a token
/// then. A missing bucket is full. All numbers are whole and below 2^53, so that Lua's doubles are exact.
///
/// 1. `debt` decays by `rate` units each microsecond. If the policy changed, units are converted; a debt above the
///    capacity is cut. A clock that went back repays nothing.
/// 2. `held = max(debt, hold x rate)`; `free = floor((capacity - held) / token)`; the grant is at most `want`, and at most
///    `free / divisor` or eight: a part of what is there, so that what is left does not all go to one sidecar, unless it
///    is so little that dividing it costs more commands than it is worth.
/// 3. If the grant is more than `needed`, the bucket then owes `held + grant x token`. Otherwise, if `needed` tokens are
///    there without the hold, they are granted and owed. Otherwise nothing is granted and nothing is written.
/// 4. The answer: tokens granted, tokens left, microseconds until `needed` would be granted, microseconds until full.
pub const LEASE_SCRIPT: &str = r"
local token, rate, capacity = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local needed, want = tonumber(ARGV[4]), tonumber(ARGV[5])
local divisor, hold = tonumber(ARGV[6]), tonumber(ARGV[7])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local debt = 0
local stored = redis.call('GET', KEYS[1])
if stored then
  local at, owed, unit = string.match(stored, '^(%d+) (%d+) (%d+)$')
  if not at then
    return redis.error_reply('ERR not a bucket')
  end
  debt = tonumber(owed)
  unit = tonumber(unit)
  if unit ~= token then
    debt = math.ceil(debt * token / unit)
  end
  debt = math.min(debt, capacity)
  local elapsed = math.max(0, math.min(now - tonumber(at), math.floor(capacity / rate) + 1))
  debt = math.max(0, debt - elapsed * rate)
end
local held = math.max(debt, hold * rate)
local free = math.floor(math.max(0, capacity - held) / token)
local granted = math.min(want, math.max(math.floor(free / divisor), math.min(free, 8)))
if granted > needed then
  debt = held + granted * token
elseif debt + needed * token <= capacity then
  granted = needed
  debt = debt + needed * token
else
  granted = 0
end
if granted > 0 then
  local lifetime = math.ceil(debt / rate / 1000) + 1
  redis.call('SET', KEYS[1], string.format('%.0f %.0f %.0f', now, debt, token), 'PX', string.format('%.0f', lifetime))
end
local reset = math.ceil(debt / rate)
local retry = math.min(reset, math.max(0, math.ceil((debt + needed * token - capacity) / rate)))
return {granted, math.floor((capacity - debt) / token), retry, reset}
";

/// The arguments of [`LEASE_SCRIPT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub(super) token: u64,
    pub(super) rate: u64,
    pub(super) capacity: u64,
    pub(super) needed: u64,
    pub(super) want: u64,
    pub(super) divisor: u64,
    pub(super) hold_us: u64,
}

impl Request {
    /// In the order of `ARGV`.
    pub fn args(&self) -> [u64; 7] {
        let Self {
            token,
            rate,
            capacity,
            needed,
            want,
            divisor,
            hold_us,
        } = *self;
        [token, rate, capacity, needed, want, divisor, hold_us]
    }
}

/// The answer of [`LEASE_SCRIPT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Tokens granted; zero: refused.
    pub granted: u64,
    /// Tokens left in the store.
    pub left: u64,
    /// Microseconds until what was needed would be granted.
    pub retry_us: u64,
    /// Microseconds until the bucket is full.
    pub reset_us: u64,
}

impl Reply {
    /// Reads the script's four numbers; none: something else answered.
    pub fn read(numbers: &[i64]) -> Option<Self> {
        let [granted, left, retry_us, reset_us] = *numbers else {
            return None;
        };
        let number = |value: i64| u64::try_from(value).ok();
        Some(Self {
            granted: number(granted)?,
            left: number(left)?,
            retry_us: number(retry_us)?,
            reset_us: number(reset_us)?,
        })
    }
}

/// A bucket as the store keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// When, by the store's clock.
    pub at_us: u64,
    /// Units owed then.
    pub debt: u64,
    /// Units of a token then.
    pub token: u64,
}

/// [`LEASE_SCRIPT`], line by line, in Rust: what the store holds afterwards, and the answer. For tests and `explain`;
/// the script itself runs in the store.
pub fn model(stored: Option<Stored>, request: &Request, now_us: u64) -> (Option<Stored>, Reply) {
    let Request {
        token,
        rate,
        capacity,
        needed,
        want,
        divisor,
        hold_us,
    } = *request;
    let mut debt = 0;
    if let Some(Stored {
        at_us,
        debt: owed,
        token: unit,
    }) = stored
    {
        debt = owed;
        if unit != token {
            let converted =
                (u128::from(owed) * u128::from(token)).div_ceil(u128::from(unit.max(1)));
            debt = u64::try_from(converted).unwrap_or(u64::MAX);
        }
        debt = debt.min(capacity);
        let elapsed = now_us.saturating_sub(at_us).min(capacity / rate + 1);
        debt = debt.saturating_sub(elapsed.saturating_mul(rate));
    }
    let held = debt.max(hold_us.saturating_mul(rate));
    let free = capacity.saturating_sub(held) / token;
    let mut granted = want.min((free / divisor).max(free.min(8)));
    let price = needed.saturating_mul(token);
    if granted > needed {
        debt = held + granted * token;
    } else if debt.saturating_add(price) <= capacity {
        granted = needed;
        debt += price;
    } else {
        granted = 0;
    }
    let stored = if granted > 0 {
        Some(Stored {
            at_us: now_us,
            debt,
            token,
        })
    } else {
        stored
    };
    let reset_us = debt.div_ceil(rate);
    let retry_us = debt
        .saturating_add(price)
        .saturating_sub(capacity)
        .div_ceil(rate)
        .min(reset_us);
    (
        stored,
        Reply {
            granted,
            left: (capacity - debt) / token,
            retry_us,
            reset_us,
        },
    )
}
