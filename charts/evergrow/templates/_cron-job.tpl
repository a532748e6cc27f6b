{{/*
The name of a CronJob: <model>-<pipeline>, with a number from a pipeline's second schedule on. Kubernetes allows 52
characters, so a long one is cut, and told apart by its digest.
*/}}
{{- define "evergrow.cronJobName" -}}
{{- $name := printf "%s-%s" .model (.schedule.pipeline | replace "_" "-") -}}
{{- if gt (int .number) 1 }}{{ $name = printf "%s-%d" $name (int .number) }}{{ end -}}
{{- if gt (len $name) 52 -}}
  {{- $name = printf "%s-%s" (trunc 43 $name | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{/* A pipeline that is run again and again. Takes a dict: root, model, schedule, number. */}}
{{- define "evergrow.cronJob" -}}
{{- $execution := .root.Values.execution -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ include "evergrow.cronJobName" . }}
  namespace: {{ $execution.namespace }}
  labels:
    {{- include "evergrow.labels" .root | nindent 4 }}
    {{- include "evergrow.driverLabels" . | nindent 4 }}
spec:
  schedule: {{ .schedule.cron | quote }}
  timeZone: Etc/UTC
  suspend: {{ .schedule.suspended | default false }}
  # A run reads and writes what the one before it may still be at.
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 3
  jobTemplate:
    metadata:
      # As `evergrow submit` labels its Jobs, so that `evergrow status` shows both.
      labels:
        {{- include "evergrow.podLabels" .root | nindent 8 }}
        {{- include "evergrow.driverLabels" . | nindent 8 }}
        app.kubernetes.io/managed-by: evergrow
      annotations:
        evergrow.dev/run-name: {{ printf "%s %s (scheduled)" .schedule.pipeline .model | quote }}
    spec:
      # A driver that was evicted or killed is started again; one that failed has said why, and would again.
      backoffLimit: 2
      podFailurePolicy:
        rules:
          - action: Ignore
            onPodConditions: [{type: DisruptionTarget, status: "True"}]
          - action: FailJob
            onExitCodes: {containerName: main, operator: NotIn, values: [137, 143]}
      template:
        metadata:
          labels:
            {{- include "evergrow.podLabels" .root | nindent 12 }}
            {{- include "evergrow.driverLabels" . | nindent 12 }}
        spec:
          {{- include "evergrow.driverPod" . | nindent 10 }}
{{- end }}

{{- define "evergrow.driverLabels" -}}
app.kubernetes.io/component: driver
evergrow.dev/model: {{ .model }}
evergrow.dev/pipeline: {{ .schedule.pipeline }}
{{- end }}

{{/* The pod that drives a run: it starts a pod a step, and computes nothing itself. */}}
{{- define "evergrow.driverPod" -}}
{{- $pipelines := .root.Values.execution.pipelines -}}
restartPolicy: Never
serviceAccountName: {{ $pipelines.serviceAccount }}
enableServiceLinks: false
{{- with $pipelines.steps.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pipelines.steps.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: main
    image: {{ .root.Values.code.images.steps | quote }}
    imagePullPolicy: {{ .root.Values.code.images.pullPolicy }}
    # As of the present.
    command: [python, -m, evergrow, run, {{ .schedule.pipeline }}, -f, /evergrow/model.yaml, --runner, pods]
    envFrom:
      - configMapRef: {name: evergrow-environment}
      - secretRef: {name: {{ .root.Values.data.secrets.credentials }}}
    env:
      - {name: EVERGROW_ACTOR, value: schedule}
      {{- range $name, $path := dict
        "EVERGROW_NAMESPACE" "metadata.namespace"
        "EVERGROW_POD" "metadata.name"
        "EVERGROW_POD_UID" "metadata.uid"
        "EVERGROW_JOB" "metadata.labels['job-name']" }}
      - name: {{ $name }}
        valueFrom: {fieldRef: {fieldPath: {{ $path | quote }}}}
      {{- end }}
    resources:
      requests: {cpu: 50m, memory: 256Mi}
      limits: {cpu: "1", memory: 1Gi}
    securityContext:
      {{- include "evergrow.containerSecurity" . | nindent 6 }}
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts:
      - {name: document, mountPath: /evergrow, readOnly: true}
      - {name: state, mountPath: /home/evergrow/state}
      - {name: tmp, mountPath: /tmp}
volumes:
  - name: document
    configMap: {name: evergrow-model-{{ .model }}}
  - name: state
    emptyDir: {}
  - name: tmp
    emptyDir: {}
{{- end }}
