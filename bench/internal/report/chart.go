package report

import (
	"fmt"
	"html"
	"io"
	"strings"

	"github.com/voidnxlab/nixtrap/bench/internal/contest"
	"github.com/voidnxlab/nixtrap/bench/internal/stats"
)

// Panel is a group of horizontal bars over one scale.
type Panel struct {
	Title string // what, unit, and whether more or less is better
	Bars  []Bar
}

// Bar is one value. Low and High are the ends of its whisker; equal ones draw none.
type Bar struct {
	Label            string
	Value, Low, High float64
	Ours             bool // drawn in the accent colour
}

// Panels makes a panel of each pass of the runs: of NARs the logical rate, of narinfos the time of one.
func Panels(runs []*Run, ours func(contender string) bool) []Panel {
	var panels []Panel
	for _, r := range runs {
		var last contest.Pass
		for i, s := range r.Board {
			if i == 0 || s.Pass != last {
				panels = append(panels, Panel{Title: panelTitle(r.Workload, s.Pass)})
				last = s.Pass
			}
			value := stats.Summarize(chartValues(s))
			p := &panels[len(panels)-1]
			p.Bars = append(p.Bars, Bar{s.Contender, value.Median, value.Low, value.High, ours(s.Contender)})
		}
	}
	return panels
}

func panelTitle(workload string, p contest.Pass) string {
	if p.Kind == contest.Narinfo || p.Kind == contest.Absent {
		return fmt.Sprintf("%s: %s, µs each (less is better)", workload, p)
	}
	if p.Kind == contest.First {
		return "first request of a zstd NAR, MB/s before compression (more is better)"
	}
	plural := "s"
	if p.Connections == 1 {
		plural = ""
	}
	return fmt.Sprintf("%s: NARs over %d connection%s, MB/s before compression (more is better)", workload, p.Connections, plural)
}

func chartValues(s *contest.Series) []float64 {
	var values []float64
	for _, sample := range s.Samples {
		if s.Pass.Kind == contest.Narinfo || s.Pass.Kind == contest.Absent {
			values = append(values, sample.Time.Seconds()*1e6/float64(sample.Requests))
			continue
		}
		values = append(values, float64(sample.Logical)/1e6/sample.Time.Seconds())
	}
	return values
}

// Measures of a chart, in pixels.
const (
	chartWidth = 800
	labelWidth = 240
	valueWidth = 90
	barHeight  = 16
	barStep    = 22
	titleStep  = 30
	margin     = 16
)

// Colours are chosen to be read on white and, where the reader prefers it, on black.
const chartStyle = `<style>
svg { font: 13px system-ui, sans-serif; background: #fff }
text { fill: #1f2328 } .title { font-weight: 600 } .note { fill: #59636e; font-size: 11px }
.bar { fill: #8c959f } .ours { fill: #0969da } .whisker { stroke: #1f2328; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117 }
  text { fill: #f0f6fc } .note { fill: #9198a1 }
  .bar { fill: #656c76 } .ours { fill: #4493f8 } .whisker { stroke: #f0f6fc }
}
</style>
`

// Chart writes panels as SVG, one below the other, and notes in small print behind them.
func Chart(w io.Writer, panels []Panel, notes []string) error {
	var b strings.Builder
	y := margin
	for _, p := range panels {
		y = p.draw(&b, y)
	}
	for _, note := range notes {
		fmt.Fprintf(&b, `<text class="note" x="%d" y="%d">%s</text>`+"\n", margin, y+12, html.EscapeString(note))
		y += 16
	}
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img">
<title>Nix binary cache servers side by side</title>
%s%s</svg>
`, chartWidth, y+margin, chartStyle, b.String())
	return err
}

// draw writes a panel that begins at y and returns where it ends.
func (p *Panel) draw(b *strings.Builder, y int) int {
	most := 0.0
	for _, bar := range p.Bars {
		most = max(most, bar.Value, bar.High)
	}
	fmt.Fprintf(b, `<text class="title" x="%d" y="%d">%s</text>`+"\n", margin, y+14, html.EscapeString(p.Title))
	y += titleStep - 6
	for _, bar := range p.Bars {
		bar.draw(b, y, most)
		y += barStep
	}
	return y + titleStep - barStep + 6
}

func (bar *Bar) draw(b *strings.Builder, y int, most float64) {
	const room = chartWidth - labelWidth - valueWidth - 2*margin
	x := func(v float64) float64 {
		if most == 0 {
			return margin + labelWidth
		}
		return margin + labelWidth + room*v/most
	}
	class := "bar"
	if bar.Ours {
		class = "bar ours"
	}
	middle := y + barHeight/2
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, margin+labelWidth-8, middle+5, html.EscapeString(bar.Label))
	fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`,
		class, margin+labelWidth, y, x(bar.Value)-x(0), barHeight)
	if bar.Low != bar.High {
		fmt.Fprintf(b, `<path class="whisker" d="M%.1f %dH%.1f"/>`, x(bar.Low), middle, x(bar.High))
	}
	fmt.Fprintf(b, `<text x="%.1f" y="%d">%.0f</text>`+"\n", x(max(bar.Value, bar.High))+6, middle+5, bar.Value)
}
