package token_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/token"
)

// generate makes a token and its record, ready for a store.
func generate(t testing.TB, name string, scopes httpcache.Scope) (*token.Token, *token.Record) {
	t.Helper()
	tok, record, err := token.GenerateToken(nil)
	require.NoError(t, err)
	record.Name, record.Scopes = name, scopes
	return tok, record
}

func TestGenerateToken(t *testing.T) {
	random := bytes.NewReader(append(bytes.Repeat([]byte{0}, 10), bytes.Repeat([]byte{0xff}, 32)...))
	tok, record, err := token.GenerateToken(random)
	require.NoError(t, err)
	require.Equal(t, "nixtrap_aaaaaaaaaaaaaaaa_"+strings.Repeat("_", 42)+"8", tok.Text())
	require.Equal(t, "aaaaaaaaaaaaaaaa", record.ID)
	require.Equal(t, sha256.Sum256(bytes.Repeat([]byte{0xff}, 32)), record.Hash)
	require.WithinDuration(t, time.Now(), record.Created, time.Hour)
	require.Zero(t, record.Expires)
	require.Equal(t, token.Active, record.State(time.Now()))

	other, _ := generate(t, "a", httpcache.ScopeRead)
	another, _ := generate(t, "a", httpcache.ScopeRead)
	require.NotEqual(t, other.Text(), another.Text())

	_, _, err = token.GenerateToken(iotest.ErrReader(errors.New("no randomness")))
	require.ErrorContains(t, err, "no randomness")
	_, _, err = token.GenerateToken(bytes.NewReader(make([]byte, 41)))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestTokenTextRoundTrip(t *testing.T) {
	for range 100 {
		tok, record := generate(t, "a", httpcache.ScopeRead)
		parsed, err := token.ParseToken(tok.Text())
		require.NoError(t, err)
		require.Equal(t, tok.Text(), parsed.Text())
		require.Equal(t, record.ID, parsed.ID())
		require.Equal(t, record.Hash, parsed.Hash())
	}
}

// Every single-byte change and every truncation of a token is refused or is another token, and no error quotes it.
func TestMangledTokenIsRefused(t *testing.T) {
	tok, record := generate(t, "a", httpcache.ScopeRead)
	text := tok.Text()
	secret := text[strings.LastIndex(text, record.ID)+len(record.ID)+1:]
	refused := func(mangled string) {
		_, err := token.ParseToken(mangled)
		require.Error(t, err, "%q", mangled)
		require.NotContains(t, err.Error(), secret[1:20])
	}
	for i := range text {
		for c := range 256 {
			mangled := []byte(text)
			mangled[i] = byte(c)
			parsed, err := token.ParseToken(string(mangled))
			if err == nil {
				require.Equal(t, string(mangled), parsed.Text(), "byte %d is %q", i, c)
				continue
			}
			require.NotContains(t, err.Error(), secret[1:20])
		}
		refused(text[:i])
	}
	for _, mangled := range []string{
		"", "nixtrap_", "nixtrap__", text + "=", text + "\n", " " + text, strings.ToUpper(text[:8]) + text[8:],
		"nixtrap_" + strings.Repeat("a", 9) + "_" + secret, "nixtrap_" + strings.Repeat("a", 33) + "_" + secret,
		"nixtrap_aaaaaaaaaa1_" + secret, "nixtrap_" + record.ID + "_" + secret[:41] + "\r\n",
		"nixtrap_" + record.ID + "_" + base64.StdEncoding.EncodeToString(make([]byte, 32)),
	} {
		refused(mangled)
	}
	for _, n := range []int{10, 32} {
		parsed, err := token.ParseToken("nixtrap_" + strings.Repeat("a", n) + "_" + secret)
		require.NoError(t, err)
		require.Equal(t, strings.Repeat("a", n), parsed.ID())
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	tok, record := generate(t, "ci", httpcache.ScopePush)
	secret := tok.Text()[len("nixtrap_")+len(record.ID)+1:]
	raw, err := base64.RawURLEncoding.DecodeString(secret)
	require.NoError(t, err)
	var out strings.Builder
	type holder struct {
		Exported *token.Token
		hidden   token.Token
		record   token.Record
	}
	for _, v := range []any{tok, *tok, record, *record, holder{tok, *tok, *record}, &holder{tok, *tok, *record}, []any{tok, *record}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("x", "token", tok, "value", *tok, "record", record, "recordvalue", *record)
	require.NoError(t, json.NewEncoder(&out).Encode([]any{tok, *tok}))
	require.Contains(t, out.String(), "nixtrap_"+record.ID+"_(secret)")
	require.Contains(t, out.String(), `"record":{"id":"`+record.ID+`","name":"ci"}`)
	for _, leak := range []string{secret, fmt.Sprintf("%x", raw), fmt.Sprintf("%X", raw), strings.Trim(fmt.Sprint(raw), "[]")} {
		require.NotContains(t, out.String(), leak)
	}
}

func TestState(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name             string
		expires, revoked time.Time
		want             token.State
	}{
		{"for ever", time.Time{}, time.Time{}, token.Active},
		{"expires later", now.Add(1), time.Time{}, token.Active},
		{"expires now", now, time.Time{}, token.Expired},
		{"expired", now.Add(-1), time.Time{}, token.Expired},
		{"revoked", time.Time{}, now.Add(-1), token.Revoked},
		{"revoked in time to come", time.Time{}, now.Add(time.Hour), token.Revoked},
		{"revoked and expired", now, now, token.Revoked},
	} {
		t.Run(c.name, func(t *testing.T) {
			record := &token.Record{Expires: c.expires, Revoked: c.revoked}
			require.Equal(t, c.want, record.State(now))
		})
	}
}

// FuzzParseToken has one text for one token: what is read is what would be written.
func FuzzParseToken(f *testing.F) {
	tok, _ := generate(f, "a", httpcache.ScopeRead)
	f.Add(tok.Text())
	f.Add("nixtrap_aaaaaaaaaa_" + strings.Repeat("_", 42) + "8")
	f.Add("nixtrap_aaaaaaaaaa_" + strings.Repeat("A", 41) + "\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		if parsed, err := token.ParseToken(text); err == nil {
			require.Equal(t, text, parsed.Text())
		}
	})
}
