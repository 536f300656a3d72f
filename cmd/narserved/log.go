package main

import (
	"fmt"
	"io"
	"log/slog"
)

// newLogger makes the logger that the configuration asks for.
func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var min slog.Level
	if err := min.UnmarshalText([]byte(level)); err != nil {
		return nil, hint(fmt.Errorf("log-level: unknown level %q", level), "use debug, info, warn or error")
	}
	options := &slog.HandlerOptions{Level: min}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, hint(fmt.Errorf("log-format: unknown format %q", format), "use text or json")
}
