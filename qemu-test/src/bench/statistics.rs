//! Figures of several repetitions.

use std::fmt;

/// The same figure, measured several times.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures(Vec<f64>);

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }
}

impl Figures {
    /// The middle one; the mean of the middle two of an even number.
    pub(super) fn median(&self) -> Option<f64> {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => None,
            count if count.is_multiple_of(2) => Some(f64::midpoint(self.0[middle - 1], self.0[middle])),
            _ => Some(self.0[middle]),
        }
    }

    /// How many times the median of others its own is.
    pub(super) fn beside(&self, others: &Self) -> Option<f64> {
        let others = others.median().filter(|others| *others > 0.0)?;
        self.median().map(|median| median / others)
    }
}

/// The median and, in brackets, the least and the greatest.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(median), Some(least), Some(greatest)) = (self.median(), self.0.first(), self.0.last()) else {
            return f.write_str("-");
        };
        write!(f, "{} ({}-{})", short(median), short(*least), short(*greatest))
    }
}

/// Three digits are more than such figures are worth.
fn short(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        let median = |figures: &[f64]| figures.iter().copied().collect::<Figures>().median();
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn figures_stand_beside_others_by_their_medians() {
        let figures = |figures: &[f64]| figures.iter().copied().collect::<Figures>();
        assert_eq!(figures(&[5.0, 6.0, 100.0]).beside(&figures(&[4.0])), Some(1.5));
        assert_eq!(figures(&[5.0]).beside(&figures(&[0.0])), None);
        assert_eq!(figures(&[5.0]).beside(&Figures::default()), None);
    }

    #[test]
    fn figures_are_shown_with_their_spread() {
        assert_eq!([12.34, 0.5, 1234.5].into_iter().collect::<Figures>().to_string(), "12.3 (0.50-1234)");
        assert_eq!(Figures::default().to_string(), "-");
    }
}
