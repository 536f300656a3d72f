package report_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/bench/internal/report"
)

// widths reads a chart as XML and returns its bars' widths and its text.
func widths(t *testing.T, svg []byte) (bars []float64, text string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	d.Strict = true
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return bars, text
		}
		require.NoError(t, err, "the chart is well-formed")
		switch token := token.(type) {
		case xml.CharData:
			text += string(token)
		case xml.StartElement:
			for _, a := range token.Attr {
				if token.Name.Local == "rect" && a.Name.Local == "width" {
					w, err := strconv.ParseFloat(a.Value, 64)
					require.NoError(t, err)
					bars = append(bars, w)
				}
			}
		}
	}
}

func TestChart(t *testing.T) {
	panels := report.Panels([]*report.Run{{Workload: "a < b", Board: board()}}, func(c string) bool { return c == "ours" })
	require.Len(t, panels, 1)
	require.Equal(t, []report.Bar{
		{Label: "nginx", Value: 500, Low: 375, High: 750},
		{Label: "ours", Value: 625, Low: 412.5, High: 937.5, Ours: true},
	}, panels[0].Bars)
	var b bytes.Buffer
	require.NoError(t, report.Chart(&b, panels, []string{"note & more"}))
	bars, text := widths(t, b.Bytes())
	require.Len(t, bars, 2)
	require.InDelta(t, 1.25, bars[1]/bars[0], 0.01, "lengths are as the values")
	require.Contains(t, text, "a < b: NARs over 4 connections")
	require.Contains(t, text, "note & more")
	require.Contains(t, b.String(), "prefers-color-scheme: dark")
}

func TestChartOfNothing(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, report.Chart(&b, []report.Panel{{Title: "x", Bars: []report.Bar{{Label: "y"}}}}, nil))
	bars, _ := widths(t, b.Bytes())
	require.Equal(t, []float64{0}, bars)
}
