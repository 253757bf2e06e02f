//! A time of day in which something may be done.

use jiff::civil::Time;

/// From one time of day to another, over midnight when the second is the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    opens: Time,
    closes: Time,
}

#[derive(Debug, thiserror::Error)]
#[error("not a window of the form HH:MM-HH:MM: {0:?}")]
pub struct BadWindow(String);

impl Window {
    /// `time` is the local one.
    pub fn is_open(&self, time: Time) -> bool {
        match self.opens <= self.closes {
            true => self.opens <= time && time < self.closes,
            false => self.opens <= time || time < self.closes,
        }
    }
}

impl std::str::FromStr for Window {
    type Err = BadWindow;
    fn from_str(text: &str) -> Result<Self, BadWindow> {
        let bad = || BadWindow(text.chars().take(40).collect());
        let time = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
        };
        let (opens, closes) = text.split_once('-').ok_or_else(bad)?;
        let (opens, closes) = (time(opens).ok_or_else(bad)?, time(closes).ok_or_else(bad)?);
        // Of no length it would never open.
        if opens == closes {
            Err(bad())
        } else {
            Ok(Self { opens, closes })
        }
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.opens.strftime("%H:%M"), self.closes.strftime("%H:%M"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_night_goes_over_midnight_and_nonsense_is_no_window() {
        let night: Window = "22:00-05:30".parse().unwrap();
        let open = |hour, minute| night.is_open(Time::new(hour, minute, 0, 0).unwrap());
        assert!(open(22, 0) && open(23, 59) && open(0, 0) && open(5, 29));
        assert!(!open(5, 30) && !open(12, 0) && !open(21, 59));
        assert_eq!(night.to_string(), "22:00-05:30");
        for bad in ["", "22-5", "24:00-05:00", "22:00-22:00", "22:00"] {
            assert!(bad.parse::<Window>().is_err(), "{bad}");
        }
    }
}
