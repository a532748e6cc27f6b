{{/* Where the stores are and how they are spoken to, be they bundled or external. */}}

{{- define "platform.postgres.host" -}}
{{- eq .Values.postgres.mode "bundled" | ternary "postgres" .Values.postgres.external.host -}}
{{- end }}

{{/* Variables of libpq and a URL without a password. `.` is a dict: root, use (mlflow or feast), variable (the URL's). */}}
{{- define "platform.postgres.variables" -}}
{{- $postgres := .root.Values.postgres -}}
{{- $is := get $postgres.external .use -}}
{{- $port := $postgres.external.port -}}
{{- $sslMode := $postgres.external.sslMode -}}
{{- if eq $postgres.mode "bundled" -}}
  {{- $is = dict "database" .use "user" .use "secret" (dict "name" "postgres" "key" (printf "%s-password" .use)) -}}
  {{- $port = 5432 -}}
  {{- $sslMode = "disable" -}}
{{- end -}}
# libpq takes the password and TLS from its own variables, so that a password needs no quoting in the URL.
- name: PGPASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $is.secret.name }}, key: {{ $is.secret.key }}}
- name: PGSSLMODE
  value: {{ $sslMode }}
- name: {{ .variable }}
  value: postgresql+psycopg://{{ $is.user }}@{{ include "platform.postgres.host" .root }}:{{ $port }}/{{ $is.database }}
{{- end }}

{{/* Variables with Feast's connection string of Redis. */}}
{{- define "platform.redis.variables" -}}
{{- $redis := .Values.redis -}}
{{- $is := $redis.external -}}
{{- if eq $redis.mode "bundled" -}}
  {{- $is = dict "host" "redis" "port" 6379 "tls" false "secret" (dict "name" "redis" "key" "password") -}}
{{- end -}}
{{- with $is.secret.name -}}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $is.secret.key }}}
{{ end -}}
- name: FEAST_REDIS
  value: {{ $is.host }}:{{ $is.port }}{{ if $is.secret.name }},password=$(REDIS_PASSWORD){{ end }}{{ if $is.tls }},ssl=true{{ end }}
{{- end }}

{{/* Variables of the object store for MLflow. */}}
{{- define "platform.objectStore.variables" -}}
{{- $store := .Values.objectStore -}}
{{- $is := $store.external -}}
{{- if eq $store.mode "bundled" -}}
  {{- $keys := dict "accessKeyId" "AWS_ACCESS_KEY_ID" "secretAccessKey" "AWS_SECRET_ACCESS_KEY" -}}
  {{- $secret := set $keys "name" "mlflow-storage" -}}
  {{- /* MLflow signs URLs of this host for clients of other namespaces to download from, so it bears ours. */ -}}
  {{- $endpoint := printf "http://seaweedfs.%s:8333" .Release.Namespace -}}
  {{- $is = dict "endpoint" $endpoint "bucket" "mlflow" "secret" $secret -}}
{{- end -}}
- name: MLFLOW_ARTIFACTS_DESTINATION
  value: s3://{{ $is.bucket }}/artifacts
- name: AWS_REGION
  value: {{ $store.region }}
- name: AWS_DEFAULT_REGION
  value: {{ $store.region }}
{{- with $is.endpoint }}
- name: MLFLOW_S3_ENDPOINT_URL
  value: {{ . }}
{{- end }}
{{- with $is.secret }}
{{- if .name }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .accessKeyId }}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .secretAccessKey }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Buckets of the bundled object store, separated by blanks. Each has an identity of its name that may use it alone. */}}
{{- define "platform.buckets" -}}
{{- prepend .Values.consumers "mlflow" | uniq | join " " -}}
{{- end }}

{{/* "true" where the consumers' Secrets can be written, since every password is known here. */}}
{{- define "platform.allBundled" -}}
{{- $modes := list .Values.postgres.mode .Values.redis.mode .Values.objectStore.mode -}}
{{- if eq (uniq $modes | join "") "bundled" }}true{{ end -}}
{{- end }}

{{/* Namespaces that may reach the platform beside its own, separated by blanks. */}}
{{- define "platform.clients" -}}
{{- append .Values.consumers .Values.kubeflowNamespace | compact | uniq | join " " -}}
{{- end }}
