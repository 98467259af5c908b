//! Medians, percentiles and aligned tables.

use std::time::Duration;

/// The middle of the numbers; NaN of none.
pub fn median(numbers: &[f64]) -> f64 {
    quantile(numbers, 0.5)
}

/// The number below which a part `q` (0 to 1) of all lies, by nearest rank; NaN of none.
pub fn quantile(numbers: &[f64], q: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// Milliseconds, for arithmetic and printing.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A table with a header; the first column is text, the others are numbers.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With this header.
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        Table::with_header(header)
    }

    /// With a header whose length is only known now.
    pub fn with_header<'h>(header: impl IntoIterator<Item = &'h str>) -> Self {
        Table { rows: vec![header.into_iter().map(str::to_owned).collect()] }
    }

    /// Adds a line.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.add(cells.to_vec());
    }

    /// Adds a line whose length is only known now.
    pub fn add(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it, aligned, as Markdown, with `indent` in front of every line.
    pub fn print(&self, indent: &str) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for (n, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            println!("{indent}| {} |", cells.collect::<Vec<_>>().join(" | "));
            if n == 0 {
                let rules = widths.iter().enumerate().map(|(column, &width)| {
                    let rule = "-".repeat(width + 1);
                    if column == 0 { format!("{rule}-") } else { format!("{rule}:") }
                });
                println!("{indent}|{}|", rules.collect::<Vec<_>>().join("|"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_by_nearest_rank() {
        let numbers: Vec<_> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(median(&numbers), 50.0);
        assert_eq!(quantile(&numbers, 0.99), 99.0);
        assert_eq!(quantile(&numbers, 1.0), 100.0);
        assert_eq!(quantile(&numbers, 0.0), 1.0);
        assert!(median(&[]).is_nan());
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(12), "12");
    }
}
