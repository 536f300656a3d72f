package store

import "context"

type localOnly struct{}

// LocalOnly returns a context under which stores that fetch from elsewhere answer as if they were empty: at once, with
// [ErrNotFound], and without a request. A look-up on behalf of somebody who pushes needs it: told of a path that only an
// upstream has, a client would not push it; and the upstream would be made to send what is about to arrive anyway.
func LocalOnly(ctx context.Context) context.Context { return context.WithValue(ctx, localOnly{}, true) }

// IsLocalOnly reports whether ctx comes from [LocalOnly]. A store that fetches from elsewhere asks before it does.
func IsLocalOnly(ctx context.Context) bool { return ctx.Value(localOnly{}) != nil }
