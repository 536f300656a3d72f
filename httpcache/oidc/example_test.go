package oidc_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/oidc"
)

// Jobs on the main branches of an owner's repositories may push.
func ExampleNew() {
	authorizer, err := oidc.New([]oidc.Issuer{{
		URL:      "https://token.actions.githubusercontent.com",
		Audience: "https://cache.example.org",
		Claims:   map[string][]string{"repository_owner": {"voidnx"}, "ref": {"refs/heads/main"}},
		Scopes:   httpcache.ScopeRead | httpcache.ScopePush,
		Name:     "{repository}",
	}}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer authorizer.Close()
	r := httptest.NewRequest(http.MethodPut, "/nar/x.nar", nil)
	_, err = authorizer.Authorize(r)
	fmt.Println(errors.Is(err, httpcache.ErrNoCredential))
	// Output: true
}

// A branch's name alone says nothing where everybody can have a branch of that name.
func ExampleNew_shared() {
	_, err := oidc.New([]oidc.Issuer{{
		URL:      "https://gitlab.com",
		Audience: "https://cache.example.org",
		Claims:   map[string][]string{"ref": {"main"}},
		Scopes:   httpcache.ScopePush,
	}}, nil)
	fmt.Println(err)
	// Output: oidc: issuer 1, "https://gitlab.com": everybody can have its tokens: bind one of namespace_id, namespace_path, project_id, project_path, sub, without a star before the first slash
}
