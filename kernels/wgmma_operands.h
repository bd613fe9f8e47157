// Texts of wgmma's operands for inline assembly: accumulators by eights, as names in the instruction and as
// registers behind it. For the headers that write those instructions.
#pragma once

#define ORRERY_TEXT0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define ORRERY_TEXT1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define ORRERY_TEXT2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define ORRERY_TEXT3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define ORRERY_TEXT4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define ORRERY_TEXT5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define ORRERY_TEXT6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define ORRERY_TEXT7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define ORRERY_TEXT8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define ORRERY_TEXT9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define ORRERY_TEXT10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define ORRERY_TEXT11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define ORRERY_TEXT12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define ORRERY_TEXT13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define ORRERY_TEXT14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define ORRERY_TEXT15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define ORRERY_EIGHT(d, i)                                                                    \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
// Four fragments of eight columns.
#define ORRERY_FRAGMENT(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define ORRERY_FRAGMENTS(d, i) \
  ORRERY_FRAGMENT(d, i), ORRERY_FRAGMENT(d, i + 1), ORRERY_FRAGMENT(d, i + 2), ORRERY_FRAGMENT(d, i + 3)
