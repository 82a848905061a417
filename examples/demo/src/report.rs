//! The table: what was sent, what came back, which policy decided. It prints each row as it comes and
//! counts surprises.

use crate::caller::{Answer, Ask};

const REQUEST: usize = 42;
const WHO: usize = 25;
const BACK: usize = 40;

/// What is known of one request.
pub(crate) struct Row<'a> {
    /// Who asked, and how.
    pub(crate) who: &'a str,
    /// What was sent, in words or as method and target.
    pub(crate) sent: String,
    /// What came back.
    pub(crate) back: String,
    /// The object and rule that decided, from the access log.
    pub(crate) decided: Option<String>,
    /// What was expected and did not come; empty where nothing surprised.
    pub(crate) surprises: Vec<String>,
}

/// Counts what was printed.
#[derive(Default)]
pub(crate) struct Report {
    rows: usize,
    surprises: usize,
}

impl Report {
    /// A heading over the rows that follow.
    pub(crate) fn section(&self, title: &str) {
        println!("\n{title}");
    }

    /// One row.
    pub(crate) fn row(&mut self, row: Row<'_>) {
        let Row {
            who,
            sent,
            back,
            decided,
            surprises,
        } = row;
        self.rows += 1;
        let mark = if surprises.is_empty() { "ok" } else { "!!" };
        let decided = decided.as_deref().unwrap_or("-");
        println!(
            "  {mark}  {:<REQUEST$} {:<WHO$} {:<BACK$} {decided}",
            clip(&sent, REQUEST),
            clip(who, WHO),
            clip(&back, BACK),
        );
        if !surprises.is_empty() {
            self.surprises += 1;
            println!("      expected {}", surprises.join("; "));
        }
    }

    /// The heading of the columns.
    pub(crate) fn head(&self) {
        println!(
            "\n      {:<REQUEST$} {:<WHO$} {:<BACK$} decided by",
            "sent", "by", "came back"
        );
    }

    /// Rows that surprised.
    pub(crate) fn surprises(&self) -> usize {
        self.surprises
    }

    /// The last line of the table.
    pub(crate) fn print_summary(&self) {
        match self.surprises {
            0 => println!("\n{} rows, no surprise.", self.rows),
            surprises => println!("\n{} rows, {surprises} surprising (marked !!).", self.rows),
        }
    }
}

/// Method and target.
pub(crate) fn sent(ask: &Ask) -> String {
    format!("{} {}", ask.method, ask.target)
}

/// An answer in a few words.
pub(crate) fn back(answer: &Answer) -> String {
    let mut words = vec![answer.status.to_string()];
    if answer.cache_hit() == Some(true) {
        words.push("from the cache".into());
    } else if let Some(pod) = answer.served_by() {
        words.push(format!("from {pod}"));
    }
    if let Some(location) = answer.header("location") {
        words.push(format!("to {location}"));
    }
    if let Some(seconds) = answer.header("retry-after") {
        words.push(format!("retry after {seconds} s"));
    }
    words.join(", ")
}

/// A text of at most `width` characters.
fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn an_answer_is_told_in_a_few_words() {
        let mut answer = Answer {
            status: 429,
            ..Answer::default()
        };
        answer
            .headers
            .insert("retry-after", HeaderValue::from_static("3"));
        assert_eq!(back(&answer), "429, retry after 3 s");
    }

    #[test]
    fn surprises_are_counted_by_row() {
        let mut report = Report::default();
        for surprises in [vec![], vec!["a".to_owned(), "b".to_owned()]] {
            report.row(Row {
                who: "",
                sent: String::new(),
                back: String::new(),
                decided: None,
                surprises,
            });
        }
        assert_eq!((report.rows, report.surprises()), (2, 1));
    }

    #[test]
    fn a_long_text_is_clipped_by_characters() {
        assert_eq!(clip("äöü", 3), "äöü");
        assert_eq!(clip("äöüß", 3), "äö…");
    }
}
