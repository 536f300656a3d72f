package target

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
)

// nginxConf is what NixOS calls recommended optimisation, and what Debian ships where it says anything: a worker for each
// core, sendfile, tcp_nopush, no access log. Files' descriptors are not cached, as nowhere by default.
var nginxConf = template.Must(template.New("").Parse(`daemon off;
{{if .Root}}user root;
{{end}}worker_processes auto;
pid {{.Dir}}/pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  server_tokens off;
  types { text/x-nix-narinfo narinfo; application/x-nix-nar nar zst; }
  default_type application/octet-stream;
{{range .Temp}}  {{.}}_temp_path {{$.Dir}}/{{.}};
{{end}}  server {
    listen {{.Addr}};
    root {{.Cache}};
  }
}
`))

// Nginx is nginx over a flat binary cache in a folder.
func Nginx(name, program, cache string) Program {
	return Program{Name: name, Command: func(ctx context.Context, addr, dir string) (*exec.Cmd, error) {
		temp := []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"}
		text, err := nginxConfig(addr, dir, cache, temp)
		if err != nil {
			return nil, err
		}
		conf := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(conf, text, 0o644); err != nil {
			return nil, err
		}
		return exec.CommandContext(ctx, program, "-p", dir, "-e", "stderr", "-c", conf), nil
	}}
}

func nginxConfig(addr, dir, cache string, temp []string) ([]byte, error) {
	for _, path := range []string{dir, cache} {
		if strings.ContainsAny(path, " \t\n;{}\"'\\$") {
			return nil, fmt.Errorf("nginx cannot be told of the folder %q", path)
		}
	}
	var b bytes.Buffer
	err := nginxConf.Execute(&b, struct {
		Addr, Dir, Cache string
		Root             bool
		Temp             []string
	}{addr, dir, cache, os.Geteuid() == 0, temp})
	return b.Bytes(), err
}
