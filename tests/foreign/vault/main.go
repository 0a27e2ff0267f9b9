// Vault says what Vault's JWT plugin makes of logins. It reads one JSON document from standard input,
//
//	{"config": {…}, "roles": {NAME: {…}}, "logins": [{"role": NAME, "jwt": TEXT}]}
//
// writes config and roles as an operator would, and writes a JSON list with, for each login, the policies that its
// token has, or null when the login is refused.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/hashicorp/go-hclog"
	jwtauth "github.com/hashicorp/vault-plugin-auth-jwt"
	"github.com/hashicorp/vault/sdk/logical"
)

type document struct {
	Config map[string]any            `json:"config"`
	Roles  map[string]map[string]any `json:"roles"`
	Logins []map[string]any          `json:"logins"`
}

func main() {
	var asked document
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fail(err)
	}
	ctx, storage := context.Background(), &logical.InmemStorage{}
	backend, err := jwtauth.Factory(ctx, &logical.BackendConfig{
		Logger:      hclog.NewNullLogger(),
		System:      &logical.StaticSystemView{},
		StorageView: storage,
	})
	if err != nil {
		fail(err)
	}
	ask := func(operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
		return backend.HandleRequest(ctx, &logical.Request{
			Operation:  operation,
			Path:       path,
			Storage:    storage,
			Data:       data,
			Connection: &logical.Connection{},
		})
	}
	write := func(operation logical.Operation, path string, data map[string]any) {
		response, err := ask(operation, path, data)
		if err != nil {
			fail(fmt.Errorf("%s: %w", path, err))
		}
		if response != nil && response.IsError() {
			fail(fmt.Errorf("%s: %w", path, response.Error()))
		}
	}
	write(logical.UpdateOperation, "config", asked.Config)
	for name, role := range asked.Roles {
		write(logical.CreateOperation, "role/"+name, role)
	}
	answers := make([][]string, 0, len(asked.Logins))
	for _, login := range asked.Logins {
		response, err := ask(logical.UpdateOperation, "login", login)
		if err != nil || response == nil || response.IsError() || response.Auth == nil {
			answers = append(answers, nil)
			continue
		}
		answers = append(answers, append([]string{}, response.Auth.Policies...))
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}
