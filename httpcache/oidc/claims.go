package oidc

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/internal/glob"
)

// claims are a token's, by their exact names.
type claims map[string]json.RawMessage

// text returns a claim that is a string, or a number or a boolean as it is written.
func (c claims) text(name string) (string, bool) { return scalar(c[name]) }

func scalar(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 {
		return "", false
	}
	switch raw[0] {
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err == nil
	case '{', '[', 'n':
		return "", false
	}
	return string(raw), true
}

// texts returns the values of a claim: one, or those of a list.
func (c claims) texts(name string) []string {
	var list []json.RawMessage
	if raw := c[name]; len(raw) == 0 || raw[0] != '[' {
		list = append(list, raw)
	} else if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	var texts []string
	for _, raw := range list {
		if text, ok := scalar(raw); ok {
			texts = append(texts, text)
		}
	}
	return texts
}

// seconds returns a time, in seconds since 1970.
func (c claims) seconds(name string) (t float64, present bool, err error) {
	raw, present := c[name]
	if present && json.Unmarshal(raw, &t) != nil || string(raw) == "null" {
		err = fmt.Errorf("its %s is no time", name)
	}
	return t, present, err
}

// checkTimes compares as numbers, for a time.Time would overflow at a hostile one.
func (c claims) checkTimes(now time.Time) error {
	at, leeway := float64(now.UnixMilli())/1000, Leeway.Seconds()
	exp, present, err := c.seconds("exp")
	if err == nil && !present {
		err = errors.New("it never expires")
	}
	if err == nil && at >= exp+leeway {
		err = errors.New("it is expired")
	}
	if err != nil {
		return err
	}
	for _, name := range []string{"nbf", "iat"} {
		t, present, err := c.seconds(name)
		switch {
		case err != nil:
			return err
		case !present && name == "iat":
			return errors.New("it does not say when it was issued")
		case present && at < t-leeway:
			return fmt.Errorf("its %s is to come", name)
		}
	}
	return nil
}

// rule is an [Issuer], checked and copied.
type rule struct {
	audience string
	bound    map[string][]string
	scopes   httpcache.Scope
	caches   []string
	name     []namePart
}

func newRule(i *Issuer) (*rule, error) {
	if err := checkURL(i.URL); err != nil {
		return nil, err
	}
	if i.Audience == "" {
		return nil, errors.New("it has no audience")
	}
	if i.Scopes == 0 {
		return nil, errors.New("it has no scope")
	}
	if err := checkBound(i); err != nil {
		return nil, err
	}
	template := i.Name
	if template == "" {
		template = "{sub}"
	}
	name, err := parseName(template)
	if err != nil {
		return nil, err
	}
	r := &rule{
		audience: i.Audience, bound: make(map[string][]string), scopes: i.Scopes, caches: slices.Clone(i.Caches), name: name,
	}
	for claim, patterns := range i.Claims {
		r.bound[claim] = slices.Clone(patterns)
	}
	return r, nil
}

// tenants are, for issuers that everybody shares, the claims that say whom a token is for. A pattern must fix all up to
// the text that is given, or everything where there is none.
var tenants = map[string]map[string]string{
	"https://token.actions.githubusercontent.com": {
		"sub": "/", "repository": "/",
		"repository_id": "", "repository_owner": "", "repository_owner_id": "", "enterprise": "", "enterprise_id": "",
	},
	"https://gitlab.com": {
		"sub": "/", "project_path": "/", "namespace_path": "", "project_id": "", "namespace_id": "",
	},
}

// checkBound refuses claims that leave the door open.
func checkBound(i *Issuer) error {
	if len(i.Claims) == 0 {
		return errors.New("it has no bound claims")
	}
	bound := false
	for _, claim := range slices.Sorted(maps.Keys(i.Claims)) {
		patterns := i.Claims[claim]
		if claim == "" || len(patterns) == 0 {
			return fmt.Errorf("its bound claim %q has no pattern", claim)
		}
		open := func(pattern string) bool { return strings.Trim(pattern, "*") == "" }
		bound = bound || !slices.ContainsFunc(patterns, open)
	}
	if !bound {
		return errors.New("its bound claims fit every token: give one patterns that are more than a star")
	}
	shared := tenants[strings.TrimSuffix(i.URL, "/")]
	if shared == nil {
		return nil
	}
	for claim, fixed := range shared {
		loose := func(pattern string) bool {
			prefix, whole := glob.Prefix(pattern)
			return !whole && (fixed == "" || !strings.Contains(prefix, fixed))
		}
		if patterns := i.Claims[claim]; len(patterns) > 0 && !slices.ContainsFunc(patterns, loose) {
			return nil
		}
	}
	return fmt.Errorf("everybody can have its tokens: bind one of %s, without a star before the first slash",
		strings.Join(slices.Sorted(maps.Keys(shared)), ", "))
}

// identify returns whom the claims stand for under this rule.
func (r *rule) identify(c claims) (*httpcache.Identity, error) {
	if audiences := c.texts("aud"); !slices.Contains(audiences, r.audience) {
		return nil, fmt.Errorf("it is for %s, not for %q", quoted(audiences), r.audience)
	}
	for _, claim := range slices.Sorted(maps.Keys(r.bound)) {
		values, patterns := c.texts(claim), r.bound[claim]
		fits := func(value string) bool {
			return slices.ContainsFunc(patterns, func(pattern string) bool { return glob.Match(pattern, value) })
		}
		if !slices.ContainsFunc(values, fits) {
			return nil, fmt.Errorf("its %s is %s, which fits none of %s", claim, quoted(values), quoted(patterns))
		}
	}
	name, err := r.render(c)
	if err != nil {
		return nil, err
	}
	return &httpcache.Identity{Name: name, Scopes: r.scopes, Caches: r.caches}, nil
}

// namePart is text, or a claim whose value takes its place.
type namePart struct{ text, claim string }

func parseName(template string) ([]namePart, error) {
	var parts []namePart
	for rest := template; rest != ""; {
		text, after, brace := strings.Cut(rest, "{")
		claim, after, closed := strings.Cut(after, "}")
		if brace && (!closed || claim == "") || strings.ContainsAny(text+claim, "{}") {
			return nil, fmt.Errorf("name %q: braces stand around a claim's name, as in {repository}", template)
		}
		parts = append(parts, namePart{text, claim})
		rest = after
	}
	return parts, nil
}

// maxName bounds a name, in characters: what a claim holds may be chosen by whoever names a branch.
const maxName = 200

func (r *rule) render(c claims) (string, error) {
	var name strings.Builder
	for _, part := range r.name {
		name.WriteString(part.text)
		if part.claim == "" {
			continue
		}
		value, ok := c.text(part.claim)
		if !ok || value == "" {
			return "", fmt.Errorf("it has no %s for a name", part.claim)
		}
		name.WriteString(value)
	}
	runes := []rune(name.String())
	for i, c := range runes {
		if !unicode.IsPrint(c) {
			runes[i] = '?'
		}
	}
	return string(runes[:min(len(runes), maxName)]), nil
}

// quoted lists values for a log, not all of a long list.
func quoted(values []string) string {
	const most = 5
	if len(values) == 0 {
		return "absent"
	}
	var texts []string
	for _, value := range values[:min(len(values), most)] {
		texts = append(texts, fmt.Sprintf("%q", shorten(value)))
	}
	if len(values) > most {
		texts = append(texts, "…")
	}
	return strings.Join(texts, ", ")
}

// shorten cuts what comes from outside to what a log has room for.
func shorten(text string) string {
	const most = 200
	if len(text) <= most {
		return text
	}
	return text[:most] + "…"
}
