package main

import (
	"strings"
	"testing"
)

// each mistake must be refused by its own name; what refuses nothing proves nothing.
func TestMistakesAreFound(t *testing.T) {
	validator, err := loadSchemas()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, yaml, says string }{
		{"a field that no schema has", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {prots: []}}`, "prots"},
		{"a deep one", `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a}, spec: {selector: {}, template: {spec: {containers: [{name: a, securityContext: {capabilites: {}}}]}}}}`, "capabilites"},
		{"a wrong type", `{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: many}]}}`, "port"},
		{"a missing field", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a}, spec: {template: {}}}`, "selector"},
		{"an unknown kind", `{apiVersion: apps/v1beta1, kind: DaemonSet, metadata: {name: a}}`, "has no apps/v1beta1"},
		{"an operator's field", `{apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, metadata: {name: a}, spec: {selector: {}, podMetricsEndpoint: []}}`, "podMetricsEndpoint"},
		{"an operator's value", `{apiVersion: monitoring.coreos.com/v1, kind: PrometheusRule, metadata: {name: a}, spec: {groups: [{name: a, rules: [{alert: a, expr: 1, for: soon}]}]}}`, "for"},
	} {
		objects, err := split(c.yaml)
		if err != nil {
			t.Fatal(err)
		}
		said := strings.Join(validator.validate("test", objects[0]), "\n")
		if strings.Count(said, "by Kubernetes")+strings.Count(said, "has no") != len(kubernetes) || !strings.Contains(said, c.says) {
			t.Errorf("%s: %q", c.what, said)
		}
	}
	if _, err := split("a: 1\na: 2\n"); err == nil {
		t.Error("a key that stands twice was taken")
	}
}

func TestDeparturesAreFound(t *testing.T) {
	renders, problems, err := renderAll("..")
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	base := func() render {
		objects, err := kustomize("../kustomize/overlays/reader-only")
		if err != nil {
			t.Fatal(err)
		}
		return render{"kustomize/reader-only", objects}
	}
	container := func(r render) map[string]any {
		return list(dig(r.get("DaemonSet", "dogwatch-agent"), "spec", "template", "spec", "containers"))[0].(map[string]any)
	}
	if p := append(privileges(base()), references(base())...); len(p) > 0 {
		t.Fatal(p)
	}
	for says, change := range map[string]func(render){
		"has the capabilities": func(r render) {
			c := dig(container(r), "securityContext", "capabilities").(map[string]any)
			c["add"] = append(list(c["add"]), "SYS_ADMIN")
		},
		"the reader writes": func(r render) {
			for _, m := range list(container(r)["volumeMounts"]) {
				delete(m.(map[string]any), "readOnly")
			}
		},
		"more than creating token reviews": func(r render) {
			rules := list(r.get("ClusterRole", "dogwatch-collector")["rules"])
			rules[0].(map[string]any)["verbs"] = []any{"create", "list"}
		},
		"can write to its root": func(r render) {
			dig(container(r), "securityContext").(map[string]any)["readOnlyRootFilesystem"] = false
		},
		"is not there": func(r render) {
			dig(r.get("StatefulSet", "dogwatch-collector"), "spec").(map[string]any)["serviceName"] = "elsewhere"
		},
		"breaks the restricted level": func(r render) {
			dig(r.get("StatefulSet", "dogwatch-collector"), "spec", "template", "spec").(map[string]any)["hostPID"] = true
		},
	} {
		r := base()
		change(r)
		if said := strings.Join(append(privileges(r), references(r)...), "\n"); !strings.Contains(said, says) {
			t.Errorf("%s is not said: %q", says, said)
		}
	}
	other := find(renders, "helm/everything")
	if len(sameObjects(find(renders, "kustomize/monitored"), other)) == 0 {
		t.Error("other values make no difference")
	}
	if len(exemptions(renders, "")) != 2 {
		t.Error("an empty table of exemptions is taken")
	}
}
