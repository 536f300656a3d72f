package hook

// What Nix says, for tests.
var (
	AppendSettings = appendSettings
	AppendTry      = appendTry
	AppendBuild    = appendBuild
)
