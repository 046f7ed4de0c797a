//! Bars as SVG: enough for ratios, and the same bytes on every machine.

/// Groups of horizontal bars.
pub(super) struct Bars {
    pub(super) title: String,
    /// A group, and what its bars are: the number of a series and a value.
    pub(super) groups: Vec<(String, Vec<(usize, f64)>)>,
    /// Names of the series.
    pub(super) series: Vec<&'static str>,
}

impl Bars {
    pub(super) fn svg(&self) -> String {
        let bars: usize = self.groups.iter().map(|(_, bars)| bars.len()).sum();
        let height = TOP + bars * BAR + self.groups.len() * GAP + MARGIN;
        let values = self.groups.iter().flat_map(|(_, bars)| bars).map(|(_, value)| *value);
        let most = values.fold(1.0, f64::max);
        let title = escape(&self.title);
        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>
<text x="{MARGIN}" y="20" font-size="14" font-weight="bold">{title}</text>
"##
        );
        self.legend(&mut svg);
        let scale = (WIDTH - LEFT - RIGHT) as f64 / most;
        let mut y = TOP;
        for (label, bars) in &self.groups {
            let middle = y + bars.len() * BAR / 2 + 4;
            let end = LEFT - 8;
            let label = escape(label);
            svg += &format!(
                r#"<text x="{end}" y="{middle}" text-anchor="end">{label}</text>
"#
            );
            for (series, value) in bars {
                bar(&mut svg, y, *series, *value, scale);
                y += BAR;
            }
            y += GAP;
        }
        let (one, top, bottom) = (LEFT as f64 + scale, TOP - 4, height - MARGIN);
        svg += &format!(
            r##"<path d="M{one:.1} {top}V{bottom}" stroke="#444444" stroke-dasharray="3 3"/>
"##
        );
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String) {
        let mut x = MARGIN;
        for (number, name) in self.series.iter().enumerate() {
            let (color, text) = (COLORS[number % COLORS.len()], x + 16);
            let name = escape(name);
            *svg += &format!(
                r#"<rect x="{x}" y="30" width="12" height="12" fill="{color}"/>
<text x="{text}" y="40">{name}</text>
"#
            );
            x += 40 + name.len() * 7;
        }
    }
}

fn bar(svg: &mut String, y: usize, series: usize, value: f64, scale: f64) {
    let color = COLORS[series % COLORS.len()];
    let (width, height) = (value * scale, BAR - 2);
    let (x, text) = (LEFT as f64 + width + 4.0, y + BAR - 5);
    *svg += &format!(
        r#"<rect x="{LEFT}" y="{y}" width="{width:.1}" height="{height}" fill="{color}"/>
<text x="{x:.1}" y="{text}" font-size="11">{value:.2}</text>
"#
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const WIDTH: usize = 760;
const LEFT: usize = 250;
/// Room for the number behind the longest bar.
const RIGHT: usize = 60;
const TOP: usize = 60;
const BAR: usize = 16;
const GAP: usize = 10;
const MARGIN: usize = 12;
/// Told apart by people who see red and green alike, too (Okabe and Ito).
const COLORS: [&str; 4] = ["#999999", "#e69f00", "#0072b2", "#009e73"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values_and_texts_are_escaped() {
        let bars = Bars {
            title: "a < b".to_owned(),
            groups: vec![("one".to_owned(), vec![(0, 1.0), (1, 2.0)])],
            series: vec!["x", "y"],
        };
        let svg = bars.svg();
        assert!(svg.contains("a &lt; b"));
        assert!(svg.contains("width=\"225.0\"") && svg.contains("width=\"450.0\""), "{svg}");
        assert_eq!(svg.matches("<text").count(), 1 + 2 + 1 + 2);
    }
}
