package s3

import (
	"errors"
	"fmt"
	"os"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// credentials returns where the options' credentials come from. Nothing is read yet.
func (o *Options) credentials() *credentials.Credentials {
	if o.Anonymous {
		return credentials.NewStatic("", "", "", credentials.SignatureAnonymous)
	}
	files := &credentials.FileAWSCredentials{Filename: o.CredentialsFile, Profile: o.Profile}
	if o.CredentialsFile != "" || o.Profile != "" {
		return credentials.New(&firstOf{sources: []source{{"file", files}}})
	}
	sources := []source{{"environment", new(credentials.EnvAWS)}, {"files", files}}
	if os.Getenv("AWS_EC2_METADATA_DISABLED") != "true" {
		sources = append(sources, source{"role", new(credentials.IAM)})
	}
	return credentials.New(&firstOf{sources: sources})
}

type source struct {
	name string
	credentials.Provider
}

// firstOf has the credentials of the first source that has any. Unlike minio's chain it fails where none has, for an
// unsigned request would be refused without a reason. Its caller holds a lock.
type firstOf struct {
	sources []source
	used    credentials.Provider
}

// credentialsError is permanent: another attempt would read the same.
type credentialsError struct{ error }

// RetrieveWithCredContext asks each source in turn.
func (f *firstOf) RetrieveWithCredContext(c *credentials.CredContext) (credentials.Value, error) {
	var why []error
	for _, s := range f.sources {
		v, err := s.RetrieveWithCredContext(c)
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			f.used = s.Provider
			return v, nil
		}
		if err == nil {
			err = errors.New("none")
		}
		why = append(why, fmt.Errorf("%s: %v", s.name, err))
	}
	return credentials.Value{}, credentialsError{fmt.Errorf("no credentials: %w", errors.Join(why...))}
}

// Retrieve is the interface's deprecated form.
func (f *firstOf) Retrieve() (credentials.Value, error) { return f.RetrieveWithCredContext(nil) }

// IsExpired reports whether the source must be asked again.
func (f *firstOf) IsExpired() bool { return f.used == nil || f.used.IsExpired() }
