//! Tables that fit 80 columns.

/// Columns of a terminal.
pub const WIDTH: usize = 80;

/// Rows under a heading. Every row has as many cells as the heading.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    empty: &'static str,
}

impl Table {
    /// A table with this heading; `empty` is shown in the place of one without rows.
    pub fn new<const N: usize>(heading: [&str; N], empty: &'static str) -> Self {
        Self { rows: vec![heading.map(str::to_owned).to_vec()], empty }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.rows.len() == 1 {
            return f.write_str(self.empty);
        }
        let columns = self.rows[0].len();
        let mut widths: Vec<usize> =
            (0..columns).map(|n| self.rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0)).collect();
        // What does not fit is taken from the widest column, a character at a time.
        while widths.iter().sum::<usize>() + 2 * (columns - 1) > WIDTH {
            let widest = (0..columns).max_by_key(|n| widths[*n]).unwrap_or(0);
            widths[widest] -= 1;
        }
        for (n, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| fitted(cell, *width)).collect();
            let line = cells.join("  ");
            write!(f, "{}{}", if n == 0 { "" } else { "\n" }, line.trim_end())?;
        }
        Ok(())
    }
}

/// The text at exactly this width; where it is cut, a `~` says so.
fn fitted(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return format!("{text:width$}");
    }
    text.chars().take(width.saturating_sub(1)).chain(['~']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_the_terminal_and_says_where_it_cut() {
        let mut table = Table::new(["NAME", "PLACE"], "nothing");
        table.row(["web".to_owned(), "x".repeat(100)]);
        let shown = table.to_string();
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH));
        assert!(shown.ends_with('~'));
    }

    #[test]
    fn a_table_without_rows_says_what_is_missing() {
        assert_eq!(Table::new(["NAME"], "no VMs").to_string(), "no VMs");
    }
}
