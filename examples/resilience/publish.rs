//! What is made of figures: the tables of `docs/resilience.md`, between the marks that stand there, and the plots beside it.
//! All that was measured is kept in `docs/resilience/figures.json`, so that one experiment can be measured again alone.

use std::path::Path;

use crate::EXPERIMENTS;
use crate::figures::{Figure, table};

/// Puts each table between its marks: `<!-- table NAME -->` and `<!-- end -->`.
fn fill(document: &str, figures: &[Figure]) -> String {
    let mut document = document.to_owned();
    for experiment in EXPERIMENTS {
        let begin = format!("<!-- table {} -->\n", experiment.name);
        let Some(from) = document.find(&begin).map(|at| at + begin.len()) else { continue };
        let Some(to) = document[from..].find("<!-- end -->").map(|at| at + from) else { continue };
        let with = figures.iter().find(|figure| figure.experiment == experiment.name);
        let with = with.map_or_else(|| "Not measured yet.".to_owned(), |figure| figure.with.clone());
        let table = table(figures, experiment.name, experiment.columns);
        document.replace_range(from..to, &format!("\n{table}\n{with}\n\n"));
    }
    document
}

/// Figures kept from earlier runs.
pub(crate) fn kept(directory: &Path) -> Vec<Figure> {
    let text = std::fs::read_to_string(directory.join("figures.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Writes plots and figures to `directory`, and the tables into the document beside it, if there is one.
pub(crate) fn write(directory: &Path, figures: &[Figure]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let text = serde_json::to_string(figures)?.replace("},{\"experiment\"", "},\n{\"experiment\"");
    std::fs::write(directory.join("figures.json"), text + "\n")?;
    for experiment in EXPERIMENTS {
        for (name, plot) in (experiment.plots)(figures) {
            if let Some(svg) = plot.svg() {
                std::fs::write(directory.join(name), svg)?;
            }
        }
    }
    let document = directory.with_extension("md");
    if let Ok(text) = std::fs::read_to_string(&document) {
        std::fs::write(&document, fill(&text, figures))?;
    }
    Ok(())
}
