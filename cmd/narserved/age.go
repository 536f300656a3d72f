package main

import (
	"fmt"
	"strconv"
	"time"
)

// age is how long ago something may be: days or weeks, or a duration; "0" is any time.
type age time.Duration

// Set implements flag.Value.
func (a *age) Set(text string) error {
	if text == "0" {
		*a = 0
		return nil
	}
	d, err := parseLifetime(text)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is no time (as 90d, 12w, 36h or 0)", text)
	}
	*a = age(d)
	return nil
}

// UnmarshalText is for the configuration file, where an age is a string.
func (a *age) UnmarshalText(text []byte) error { return a.Set(string(text)) }

// MarshalText is what config check prints.
func (a age) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// String implements flag.Value.
func (a age) String() string {
	const day = 24 * time.Hour
	switch d := time.Duration(a); {
	case d == 0:
		return "0"
	case d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	default:
		return d.String()
	}
}
