package httpstore

import (
	"context"
	"encoding/base64"
	"strings"
)

// Basic returns a value for Options.Authorization: a user and a password.
func Basic(user, password string) func(context.Context) (string, error) {
	text := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	return func(context.Context) (string, error) { return text, nil }
}

// Bearer returns a value for Options.Authorization: a token.
func Bearer(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return "Bearer " + token, nil }
}

// Netrc finds a host's login in the text of a netrc file, as Nix's netrc-file has it, and returns it as a value for
// Options.Authorization; nil if there is none. host is a name without a port. The first machine of that name counts, or
// the default entry before it. Macro definitions are skipped.
func Netrc(text, host string) func(context.Context) (string, error) {
	var user, password string
	found := false // the present entry is the host's
	words := netrcWords(text)
	for n := 0; n < len(words); n++ {
		value := ""
		if n+1 < len(words) {
			value = words[n+1]
		}
		switch words[n] {
		case "machine", "default":
			if found {
				return Basic(user, password)
			}
			found = words[n] == "default" || value == host
			if words[n] == "machine" {
				n++
			}
		case "login", "password", "account":
			if found && words[n] == "login" {
				user = value
			}
			if found && words[n] == "password" {
				password = value
			}
			n++
		}
	}
	if !found {
		return nil
	}
	return Basic(user, password)
}

// netrcWords splits a netrc into words, without comments and macros. A word may be in double quotes, as curl reads it.
func netrcWords(text string) (words []string) {
	inMacro := false
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if inMacro {
			inMacro = line != "" // an empty line ends it
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		for line != "" {
			var word string
			word, line = netrcWord(line)
			if word == "macdef" {
				inMacro = true
				break
			}
			words = append(words, word)
		}
	}
	return words
}

// netrcWord cuts the first word off a line that does not begin with white space.
func netrcWord(line string) (word, rest string) {
	if line[0] != '"' {
		end := strings.IndexAny(line, " \t\r")
		if end < 0 {
			return line, ""
		}
		return line[:end], strings.TrimLeft(line[end:], " \t\r")
	}
	var b strings.Builder
	for n := 1; n < len(line); n++ {
		switch c := line[n]; {
		case c == '"':
			return b.String(), strings.TrimLeft(line[n+1:], " \t\r")
		case c == '\\' && n+1 < len(line):
			n++
			b.WriteByte(line[n])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
